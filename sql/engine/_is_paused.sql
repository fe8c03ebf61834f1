-- Whether a person has stopped what is sent to a service, or to all of them.
-- Invoker's rights and no set clause, so that the planner can inline it: the engine and the views call it once a service.
create or replace function dlq._is_paused(service text)
returns boolean
language sql stable
as $$
select exists (
  select
  from dlq.pauses as p
  where p.service in (_is_paused.service, '*') and (p.paused_until is null or p.paused_until > dlq._now()))
$$;

comment on function dlq._is_paused(text) is 'Whether the service, or everything, is paused now.';
