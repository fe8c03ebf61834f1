-- Sends an entry once more that was delivered already: the handler did not do with it what it should. A verb of its own, so that
-- nobody who retries what failed sends twice what did not.
create or replace function dlq.redeliver(id uuid, reason text)
returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
select dlq._move_entry(redeliver.id, 'redeliver', redeliver.reason, '{reprocessed}', 'pending', 'the handler lost it')
$$;

comment on function dlq.redeliver(uuid, text) is
$$Makes an entry that was delivered due now, with a fresh schedule, for a reason. False: it was not delivered, is
erased, or (with a warning) not there. WD002: no reason, or no id.$$;
