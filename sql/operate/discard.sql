-- Gives an entry up: one that waits or has failed is not sent any more. dlq.retry() brings it back while it is kept.
create or replace function dlq.discard(id uuid, reason text)
returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
select dlq._move_entry(discard.id, 'discard', discard.reason, '{pending,failed}', 'discarded', 'a test of ours')
$$;

comment on function dlq.discard(uuid, text) is
$$Gives up an entry that is pending or failed, for a reason. False: it is being sent, was delivered, is discarded, erased, or (with
a warning) not there. WD002: no reason, or no id.$$;
