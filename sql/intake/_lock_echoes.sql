-- Locks the requests of which elements of store_dlq_entries() may be echoes, in one order for everybody: two calls that echo the
-- same requests, each in its own order, would wait for each other.
create or replace function dlq._lock_echoes(elements jsonb[])
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform
  from dlq.in_flight as f
  where f.entry_id in (
    select dlq._entry_named_in(e.element -> 'headers')
    from unnest(elements) as e (element)
    where dlq._may_name_an_entry(e.element -> 'headers')
    union all
    select c.entry_id
    from unnest(elements) as e (element)
      cross join lateral decode(e.element ->> 'raw_body', 'base64') as b (raw_body)
      join dlq.in_flight as c
        on c.service = e.element ->> 'service'
        and c.digest in (dlq._digest(dlq._body(nullif(e.element -> 'payload', 'null'), b.raw_body)), sha256(b.raw_body)))
  order by f.entry_id
  for update;
end
$$;

comment on function dlq._lock_echoes(jsonb[]) is 'Locks the requests of which elements may be echoes, in one order for everybody.';
