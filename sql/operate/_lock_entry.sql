-- Locks an entry for what a person is about to do with it. The processor passes it by until this transaction ends.
create or replace function dlq._lock_entry(id uuid)
returns public.webhook_dlq
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_entry public.webhook_dlq;
begin
  select e.* into v_entry from public.webhook_dlq as e where e.id = _lock_entry.id for update;
  if not found then
    raise exception using
      errcode = 'WD002',
      message = format('there is no entry %s', coalesce(_lock_entry.id::text, 'null')),
      detail = 'Nothing was changed.',
      hint = 'To find it: dlqctl list, or select * from dlq.entries.';
  end if;
  return v_entry;
end
$$;

comment on function dlq._lock_entry(uuid) is 'Locks an entry and returns it. WD002: there is none.';
