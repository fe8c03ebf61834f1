-- The time, for every decision that is made here. Tests replace this function to move it; nobody else may.
-- Only what is compared with pg_net's own times uses the real clock.
create or replace function dlq._now()
returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
as $$
select now()
$$;

comment on function dlq._now() is 'The time, for every decision of the queue. Tests replace it.';
