-- Who evaluates alerts, or sends them, is alone with that: true for the one transaction that may, false beside it. Not the engine's
-- lock: what is told of the queue must not wait for what is done with it.
create or replace function dlq._alerts_lock()
returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
select pg_try_advisory_xact_lock(6581363)
$$;

comment on function dlq._alerts_lock() is 'Takes the lock of alerts until the end of the transaction. False: somebody else has it.';
