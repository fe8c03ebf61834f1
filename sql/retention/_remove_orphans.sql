-- Looks through the next 10,000 attempts, in the order of their entries, for those whose entry is gone: a person has deleted
-- it, or truncated the queue, or somebody had locked an attempt when its entry went. They are kept as long as
-- settled entries are, counted from the attempt, and then removed. up_to: where this stopped; null at the end of the table.
create or replace function dlq._remove_orphans(inout up_to uuid, out seen integer, out attempts integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  c_page constant integer := 10000;
  v_orphans uuid[];
begin
  with page as materialized (
    select a.entry_id
    from dlq.delivery_attempts as a
    where a.entry_id > coalesce(up_to, '00000000-0000-0000-0000-000000000000')
    order by a.entry_id, a.attempt
    limit c_page
  )
  select
    (select count(*) from page),
    (select p.entry_id from page as p order by p.entry_id desc limit 1),
    array(
      -- A lookup for each: as a join it may read the whole queue.
      select p.entry_id
      from (select distinct p.entry_id from page as p) as p
      where (select e.id from public.webhook_dlq as e where e.id = p.entry_id) is null)
  into seen, up_to, v_orphans;

  with free as (
    select a.entry_id, a.attempt
    from dlq.delivery_attempts as a
    where a.entry_id = any (v_orphans)
      and a.settled_at <= dlq._now() - (select s.retain_settled from dlq.settings as s)
    for update skip locked
  ),
  forgotten as (
    delete from dlq.delivery_attempts as a
    using free as f
    where a.entry_id = f.entry_id and a.attempt = f.attempt
    returning a.entry_id
  )
  select count(*) into attempts from forgotten;

  if seen < c_page then
    up_to := null;
  end if;
end
$$;

comment on function dlq._remove_orphans(uuid) is
'Removes attempts whose entry is gone, of the next 10,000. Returns up to which entry it looked, at how many, and how many it removed.';
