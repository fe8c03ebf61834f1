-- Tells the workers that there is something to send, once this transaction commits. They look each second anyway.
-- In PL/pgSQL, which plans it once a session: each post calls it.
create or replace function net.wake()
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify('dlqctl_net_wake', '');
end
$$;

comment on function net.wake() is 'Makes the workers look at the queue at once when this transaction commits.';
