-- The engine is a singleton: true for the one transaction that may work on the queue now, false beside it.
-- Call it in a statement of its own: what comes after then sees what the last holder committed.
-- That holds in read committed only. Otherwise the snapshot is the transaction's, and older than the lock: what others have sent
-- meanwhile would not be counted. So there it raises WD003.
-- Held until the transaction ends. Never a session lock: an error would leave it on a pooled connection.
-- dlqctl migrate takes the same lock, so no step runs while the code changes.
create or replace function dlq._engine_lock()
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception using
      errcode = 'WD003',
      message = format('in %s the processor sees the queue as it was', current_setting('transaction_isolation')),
      hint = 'begin isolation level read committed';
  end if;
  return pg_try_advisory_xact_lock(6581361);  -- 0x646c71, "dlq"
end
$$;

comment on function dlq._engine_lock() is
$$Takes the engine's lock until the end of the transaction. False: somebody else has it. WD003: not in read committed.$$;
