-- The entry that a failure's headers name: by dlq-entry, or by webhook-id if that is one of ours. Other senders have a
-- header of that name too, but their ids name none of our entries. In PL/pgSQL for the reason that _hmac_pads() gives.
create or replace function dlq._entry_named_in(headers jsonb)
returns uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select e.id
    from jsonb_each_text(case when jsonb_typeof(headers) = 'object' then headers end) as h
      join public.webhook_dlq as e
        on e.id = case when h.value ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then h.value::uuid end
    where lower(h.key) in ('dlq-entry', 'webhook-id')
    order by lower(h.key)
    limit 1);
end
$$;

comment on function dlq._entry_named_in(jsonb) is 'The entry that headers name by dlq-entry or our own webhook-id. Null if they name none.';
