-- The entry whose retry this failure is an echo of, or null; and the consequences for that entry: see _accept_entry().
create or replace function dlq._echo_of(service text, headers jsonb, payload jsonb, raw_body bytea)
returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_original uuid;
begin
  -- By our own header. Other senders use webhook-id too, but their ids name none of our entries.
  if jsonb_typeof(headers) = 'object' then
    select e.id
    into v_original
    from jsonb_each_text(headers) as h
      join public.webhook_dlq as e
        on e.id = case when h.value ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then h.value::uuid end
    where lower(h.key) = 'webhook-id'
    limit 1;
  end if;

  if v_original is not null then
    update dlq.in_flight as f set echoed = true where f.entry_id = v_original;
    if not found then
      perform dlq._reopen(v_original);
    end if;
    return v_original;
  end if;

  -- By its body.
  update dlq.in_flight as f
  set echoed = true
  where f.service = _echo_of.service and f.digest = dlq._digest(dlq._body(payload, raw_body))
  returning f.entry_id into v_original;
  return v_original;
end
$$;

comment on function dlq._echo_of(text, jsonb, jsonb, bytea) is
'The entry of which this failure is an echo, whose attempt then counts as failed. Null if it is a failure of its own.';
