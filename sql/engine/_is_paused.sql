-- Whether a person has stopped what is sent to a service, or to all of them.
-- Invoker's rights. In PL/pgSQL, which plans it once a session: every claim and every look asks, and none with "exists" is inlined.
create or replace function dlq._is_paused(service text)
returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select
    from dlq.pauses as p
    where p.service in (_is_paused.service, '*') and (p.paused_until is null or p.paused_until > dlq._now()));
end
$$;

comment on function dlq._is_paused(text) is 'Whether the service, or everything, is paused now.';
