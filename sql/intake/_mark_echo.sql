-- An entry's handler has stored its failure again. If its request is in flight, the attempt will count as failed,
-- whatever is answered; if it has been taken for delivered already, that is taken back.
-- A repeatable read transaction does not see what dlq._compact_in_flight() has written anew since it began, so the mark would be
-- lost, and with it the webhook, if the handler answers well. There it raises 40001, as for any row that somebody else has changed.
create or replace function dlq._mark_echo(entry_id uuid)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  update dlq.in_flight as f set echoed = true where f.entry_id = _mark_echo.entry_id;
  if found then
    return;
  end if;
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable')
    and exists (select from public.webhook_dlq as e where e.id = _mark_echo.entry_id and e.status = 'processing')
  then
    raise exception using
      errcode = '40001',
      message = 'could not serialize access: what is in flight has been written anew since this transaction began',
      detail = 'Nothing was stored.',
      hint = 'Begin the transaction again, or store in read committed.';
  end if;
  perform dlq._reopen(_mark_echo.entry_id);
end
$$;

comment on function dlq._mark_echo(uuid) is 'Has an entry''s attempt count as failed, because its handler stored the failure again.';
