-- The engine is a singleton: true for the one transaction that may work on the queue now, false beside it.
-- Call it in a statement of its own: what comes after then sees what the last holder committed.
-- Held until the transaction ends. Never a session lock: an error would leave it on a pooled connection.
-- dlqctl migrate takes the same lock, so no step runs while the code changes.
create or replace function dlq._engine_lock()
returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
select pg_try_advisory_xact_lock(6581361)  -- 0x646c71, "dlq"
$$;

comment on function dlq._engine_lock() is 'Takes the engine''s lock until the end of the transaction. False: somebody else has it.';
