-- Deletes entries with their attempts, earlier payloads and replays' rows in one statement. An attempt that somebody has locked stays: dlq._remove_orphans() finds it.
-- In PL/pgSQL, which keeps the plan: it is also called for one entry at a time.
create or replace function dlq._delete_entries(ids uuid[], out entries integer, out attempts integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  with gone as (
    delete from public.webhook_dlq as e where e.id = any (ids)
    returning e.id
  ),
  former as (
    delete from dlq.amendments as a where a.entry_id in (select g.id from gone as g)
  ),
  unlisted as (
    delete from dlq.replayed_entries as r where r.entry_id in (select g.id from gone as g)
  ),
  free as (
    select a.entry_id, a.attempt
    from dlq.delivery_attempts as a
    where a.entry_id = any (array(select g.id from gone as g))
    for update skip locked
  ),
  forgotten as (
    delete from dlq.delivery_attempts as a
    using free as f
    where a.entry_id = f.entry_id and a.attempt = f.attempt
    returning a.entry_id
  )
  select (select count(*) from gone), (select count(*) from forgotten) into entries, attempts;
end
$$;

comment on function dlq._delete_entries(uuid[]) is 'Deletes entries with their attempts, amendments and rows of replays, and returns how many entries and attempts.';
