-- Whether anybody is told: the line alerts of health. A new queue has no channel, and that is in order; with one, it must take
-- what it is sent, and somebody must evaluate the rules. A transaction that did, or sent a test, and was left open has the lock of
-- alerts, and keeps everybody else from it. Whether pg_cron runs at all, nothing in here can tell.
create or replace view dlq._health_alerts
as
select
  'alerts' as name,
  case when c.n = 0 or not l.is_late and c.troubles is null then 'ok' else 'error' end as level,
  case
    when c.n = 0 then 'nobody is told: there is no channel'
    when l.is_late then format('not evaluated since %s: nobody is told%s', date_trunc('second', e.evaluated_at), '; ' || h.words)
    when c.troubles is not null then c.troubles
    else format('told: %s', c.names)
  end as detail,
  case
    when c.n = 0 then null
    when l.is_late and h.pid is not null then format('end its transaction, or: select pg_terminate_backend(%s)', h.pid)
    when l.is_late then 'dlqctl verify-cron; without pg_cron, each minute: select dlq.evaluate_alerts()'
    when c.troubles is not null then format('dlqctl alerts test %s', c.first)
  end as remediation
from dlq.alert_evaluation as e
  cross join (
    select
      count(*) as n,
      string_agg(s.name, ', ' order by s.name) as names,
      string_agg(format('%s: %s', s.name, s.trouble), '; ' order by s.name) filter (where s.trouble is not null) as troubles,
      min(s.name) filter (where s.trouble is not null) as first,
      min(s.created_at) as since
    from dlq.alert_channel_states as s
    where s.enabled
  ) as c
  cross join lateral (
    select greatest(e.evaluated_at, c.since) < clock_timestamp() - interval '10 minutes' as is_late
  ) as l
  left join lateral (  -- whose lock it is: dlq._alerts_lock()
    select k.pid, format('process %s (%s%s)%s has their lock', k.pid, a.usename, ', ' || nullif(a.application_name, ''),
      ', in a transaction since ' || date_trunc('second', a.xact_start)) as words
    from pg_catalog.pg_locks as k
      left join pg_catalog.pg_stat_activity as a on a.pid = k.pid
    where l.is_late and k.locktype = 'advisory' and k.granted and k.objsubid = 1 and (k.classid, k.objid) = (0, 6581363)
      and k.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
      and k.pid <> pg_backend_pid()
    limit 1  -- there is no other; and so the locks are looked at when it is late only
  ) as h on true
where e.singleton;

comment on view dlq._health_alerts is
'Check: whether anybody is told of alerts. An error when the rules are not evaluated, or a channel does not take what it is sent.';
