-- Tells the workers that there is something to send, once this transaction commits. They look each second anyway.
create or replace function net.wake()
returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
select pg_notify('dlqctl_net_wake', '')
$$;

comment on function net.wake() is 'Makes the workers look at the queue at once when this transaction commits.';
