-- Hands what is due to the sender. One transaction: an entry is queued in pg_net and recorded here, or neither.
-- Does nothing beside another engine. WD004: on a copy of production, or without a sender, nothing is sent.
-- If one request cannot be made, all are made one by one, and the one at fault counts as an attempt, not_sent.
create or replace function dlq.dispatch_due(out dispatched integer, out failed integer, inout claimed jsonb default null)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
  v_due uuid[];
  v_entry_id uuid;
  v_state text;
  v_message text;
begin
  dispatched := 0;
  failed := 0;
  if not dlq._engine_lock() then
    return;
  end if;
  v_message := dlq._lock_sender();
  if v_message is not null then
    raise exception using errcode = 'WD004', message = v_message;
  end if;

  select c.entry_ids, c.claimed into v_due, claimed from dlq._claim(dlq._room(), claimed) as c;
  if v_due is not null then
    begin
      dispatched := dlq._send(v_due);
    exception when others then
      foreach v_entry_id in array v_due loop
        begin
          dispatched := dispatched + dlq._send(array[v_entry_id]);
        exception when others then
          get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
          if not dlq._is_rows_fault(v_state) then
            raise;
          end if;
          failed := failed + (
            select s.failed
            from dlq._settle(array[v_entry_id], '{not_sent}', '{}', array[format('%s %s', v_state, v_message)], '{}', '{}') as s);
        end;
      end loop;
    end;
  end if;

  if exists (select from dlq.in_flight) then
    perform dlq._wake_sender();
  end if;
end
$$;

comment on function dlq.dispatch_due(jsonb) is
$$Hands what is due to the sender, and returns how many entries were dispatched and how many could not be sent. WD004: nothing may be sent from here.
claimed is for the next pass of the same cycle, which then need not look past what this one has sent: see dlq._claim(). Without it everything is looked for.$$;
