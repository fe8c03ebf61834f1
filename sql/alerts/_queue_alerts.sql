-- For each channel that takes it, the edge at which an alert stands now, once: by the key of dlq.alert_deliveries. Goes by what is
-- raised and who has been told, not by what happened, so it also finds what was silenced then, and channels that are new.
-- What a channel refused is sent once more after it has taken something: its key was mended, and the alert still stands. So is what
-- was sent before the channel was set: to another one of its name, which has been removed.
-- An edge before, of which the channel has not been sent anything or was refused it for now, is left out: this one says it all.
create or replace function dlq._queue_alerts()
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_queued integer;
begin
  update dlq.alert_deliveries as d
  set
    status = 'waiting', settled_at = null, next_try_at = dlq._now(),
    event = case when d.sent_at < c.created_at then 'raised' else d.event end
  from dlq.alerts as a
    join dlq.alert_channels as c on c.enabled and a.severity = any (c.severities)
  where a.id = d.alert_id and c.name = d.channel and d.edge = a.edge and d.settled_at is not null
    and a.resolved_at is null and a.good_since is null and not dlq._is_silenced(a.rule)
    and (d.sent_at < c.created_at
      or d.status = 'refused' and exists (
        select from dlq.alert_deliveries as t
        where t.channel = d.channel and t.status = 'delivered' and t.settled_at > d.settled_at));

  with due as materialized (
    select a.id, a.edge, a.rule, c.name as channel, c.created_at
    from dlq.alerts as a
      join dlq.alert_channels as c on c.enabled and a.severity = any (c.severities)
    where a.resolved_at is null and a.raised_at is not null and a.good_since is null
      and not dlq._is_silenced(a.rule)
      and not exists (
        select from dlq.alert_deliveries as d
        where d.alert_id = a.id and d.channel = c.name and d.edge = a.edge)
  ),
  superseded as (
    update dlq.alert_deliveries as d
    set status = 'superseded', settled_at = dlq._now()
    from due as u
    where d.alert_id = u.id and d.channel = u.channel and d.status = 'waiting'
  )
  insert into dlq.alert_deliveries (alert_id, edge, rule, channel, event, created_at, next_try_at)
  select
    u.id, u.edge, u.rule, u.channel,
    case when exists (
      select from dlq.alert_deliveries as d
      where d.alert_id = u.id and d.channel = u.channel and d.status in ('sent', 'delivered') and d.sent_at >= u.created_at)
    then 'changed' else 'raised' end,
    dlq._now(), dlq._now()
  from due as u;

  get diagnostics v_queued = row_count;
  return v_queued;
end
$$;

comment on function dlq._queue_alerts() is 'Has each channel told of the alerts that are raised, once an edge, and returns how many deliveries that makes.';
