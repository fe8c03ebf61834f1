-- Whether a person has stopped what is sent to a service, or to all of them.
-- Invoker's rights and no set clause, so that the planner can inline it; only definer functions call it.
create or replace function dlq._is_paused(service text)
returns boolean
language sql stable
as $$
select exists (
  select
  from dlq.endpoint_state as s
  where s.service in (_is_paused.service, '*')
    and s.paused_at is not null
    and (s.paused_until is null or s.paused_until > dlq._now()))
$$;

comment on function dlq._is_paused(text) is 'Whether the service, or everything, is paused now.';
