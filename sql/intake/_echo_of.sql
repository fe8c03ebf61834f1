-- The entry whose retry this failure is an echo of, or null; and the consequences for that entry: see _accept_entry().
create or replace function dlq._echo_of(service text, headers jsonb, payload jsonb, raw_body bytea)
returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_original uuid := dlq._entry_named_in(headers);
  v_digests bytea[];
begin
  if v_original is not null then
    perform dlq._mark_echo(v_original);
    return v_original;
  end if;

  -- By its body, as it was sent or as we would send it. Of several requests with the same, one that no other echo has
  -- claimed, if there is one.
  v_digests := array[dlq._digest(dlq._body(payload, raw_body)), sha256(raw_body)];
  update dlq.in_flight as f
  set echoed = true
  where f.entry_id = coalesce(
    (select c.entry_id
     from dlq.in_flight as c
     where c.service = _echo_of.service and c.digest = any (v_digests) and not c.echoed
     order by c.dispatched_at
     limit 1
     for update skip locked),
    (select c.entry_id
     from dlq.in_flight as c
     where c.service = _echo_of.service and c.digest = any (v_digests)
     limit 1))
  returning f.entry_id into v_original;
  return v_original;
end
$$;

comment on function dlq._echo_of(text, jsonb, jsonb, bytea) is
'The entry of which this failure is an echo, whose attempt then counts as failed. Null if it is a failure of its own.';
