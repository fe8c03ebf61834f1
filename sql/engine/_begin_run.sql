-- Opens the row of a run. Refuses to run blind: see dlq._check_sight().
-- Runs that stopped reporting a minute ago are dead: they are closed as interrupted by
-- whoever begins first; the others do not wait for it.
create or replace function dlq._begin_run()
returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id bigint;
begin
  perform dlq._check_sight('the processor');

  update public.dlq_processing_log as l
  set status = 'interrupted'
  where l.id = any (array(
    select r.id
    from public.dlq_processing_log as r
    where r.status = 'running' and r.processed_at + coalesce(r.duration, '0') < clock_timestamp() - interval '1 minute'
    for update skip locked));

  insert into public.dlq_processing_log (processed_at)
  values (clock_timestamp())
  returning id into v_id;
  return v_id;
end
$$;

comment on function dlq._begin_run() is 'Opens the row of a run in dlq_processing_log, and returns its id. WD003: the processor cannot see the queue.';
