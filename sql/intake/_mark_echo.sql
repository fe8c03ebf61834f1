-- An entry's handler has stored its failure again. If its request is in flight, the attempt will count as failed,
-- whatever is answered; if it has been taken for delivered already, that is taken back.
create or replace function dlq._mark_echo(entry_id uuid)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  update dlq.in_flight as f set echoed = true where f.entry_id = _mark_echo.entry_id;
  if not found then
    perform dlq._reopen(_mark_echo.entry_id);
  end if;
end
$$;

comment on function dlq._mark_echo(uuid) is 'Has an entry''s attempt count as failed, because its handler stored the failure again.';
