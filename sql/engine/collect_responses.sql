-- Settles every attempt that has an answer. One transaction; does nothing beside another engine. Entries and requests
-- that somebody else has locked (an echo being stored) are left for the next pass.
-- If one answer cannot be read, they are read id by id, and what has the one at fault is recorded as unanswered.
create or replace function dlq.collect_responses(out delivered integer, out failed integer, out unanswered integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
  v_request_id bigint;
  v_entry_ids uuid[];
  v_one record;
  v_state text;
  v_message text;
begin
  delivered := 0;
  failed := 0;
  unanswered := 0;
  if not dlq._engine_lock() or dlq._is_foreign('net') or to_regclass('net._http_response') is null then
    return;
  end if;

  begin
    select a.delivered, a.failed, a.unanswered into delivered, failed, unanswered from dlq._read_answers(null) as a;
    return;
  exception when others then
    null;  -- the loop below finds out which one it was, and keeps its error
  end;

  for v_request_id in select distinct f.request_id from dlq.in_flight as f order by f.request_id loop
    begin
      select a.* into v_one from dlq._read_answers(v_request_id) as a;
    exception when others then
      get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
      if not dlq._is_rows_fault(v_state) then
        raise;
      end if;
      v_entry_ids := array(select f.entry_id from dlq.in_flight as f where f.request_id = v_request_id);
      select s.* into v_one
      from dlq._settle(
        v_entry_ids, array_fill('unanswered'::text, array[cardinality(v_entry_ids)]), '{}',
        array_fill(format('the answer could not be read: %s %s', v_state, v_message), array[cardinality(v_entry_ids)]), '{}', '{}') as s;
    end;
    delivered := delivered + v_one.delivered;
    failed := failed + v_one.failed;
    unanswered := unanswered + v_one.unanswered;
  end loop;
end
$$;

comment on function dlq.collect_responses() is
'Settles every attempt that has an answer, and returns how many were delivered, failed and unanswered.';
