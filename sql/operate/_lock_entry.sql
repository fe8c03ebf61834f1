-- Locks an entry for what a person is about to do with it. The processor passes it by until this transaction ends.
-- One that is not there is null, and warned of: a statement over many may have seen entries that somebody has deleted since,
-- and goes on with the others, as an update would.
create or replace function dlq._lock_entry(id uuid)
returns public.webhook_dlq
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_entry public.webhook_dlq;
begin
  if _lock_entry.id is null then
    raise exception using
      errcode = 'WD002',
      message = 'an id is needed',
      detail = 'Nothing was changed.',
      hint = 'To find it: dlqctl list, or select * from dlq.entries.';
  end if;
  select e.* into v_entry from public.webhook_dlq as e where e.id = _lock_entry.id for update;
  if not found then
    raise warning using
      errcode = 'WD002',
      message = format('there is no entry %s', _lock_entry.id),
      detail = 'It was left out.',
      hint = 'To find it: dlqctl list, or select * from dlq.entries. To be stopped by such an id: dlq.find_entry(text).';
  end if;
  return v_entry;
end
$$;

comment on function dlq._lock_entry(uuid) is
'Locks an entry and returns it. Null, and a warning WD002: there is none of this id. WD002: the id is null.';
