-- Sends an entry again, now and with all its retries: one that waits, has failed or was discarded. Over many:
-- select dlq.retry(id, 'the handler is mended') from webhook_dlq where status = 'failed' order by id;
create or replace function dlq.retry(id uuid, reason text)
returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
select dlq._move_entry(retry.id, 'retry', retry.reason, '{pending,failed,discarded}', 'pending', 'the handler is mended')
$$;

comment on function dlq.retry(uuid, text) is
$$Makes an entry that is pending, failed or discarded due now, with a fresh schedule, for a reason. False: it is being sent, was
delivered, is erased, an echo, or (with a warning) not there. WD002: no reason, or no id.$$;
