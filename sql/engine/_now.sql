-- The time, for every decision that is made here. Tests replace this function to move it; nobody else may.
-- Only what is compared with pg_net's own times uses the real clock. No set clause, so that the planner can inline it.
create or replace function dlq._now()
returns timestamptz
language sql stable
as $$
select pg_catalog.now()
$$;

comment on function dlq._now() is 'The time, for every decision of the queue. Tests replace it.';
