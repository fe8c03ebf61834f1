-- How many more requests may be handed to the sender now. pg_net is shared with others, and sends one batch after
-- the other: never more of ours than two batches hold. The net-worker tells no batch size; there a setting decides.
create or replace function dlq._room()
returns integer
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select greatest(0,
  coalesce(2 * current_setting('pg_net.batch_size', true)::integer, s.max_in_flight)
  - (select count(*) from dlq.in_flight)::integer)
from dlq.settings as s
$$;

comment on function dlq._room() is 'How many more requests may be handed to the sender now.';
