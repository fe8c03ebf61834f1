-- How the queue is, one row a check: the one truth that dlqctl health and verify-cron print. level is ok, warning or
-- error; remediation says what to type. Reads no unlogged table, so it answers on a standby; counts stop at 10,000.
create or replace view dlq.health
as
with
settings as materialized (
  select s.installed_at, s.cycle_minutes, t.*, dlq._now() as now from dlq.settings as s, dlq._thresholds as t
),
last_run as materialized (
  select l.* from public.dlq_processing_log as l order by l.processed_at desc limit 1
),
pending as materialized (
  select count(*) as n
  from (select from public.webhook_dlq as e where e.status = 'pending' limit 10001) as e
),
failed as materialized (
  select count(*) as n
  from (
    select from public.webhook_dlq as e, settings as s
    where e.status = 'failed' and e.settled_at > s.now - interval '1 hour' limit 10001) as e
),
services as materialized (
  select
    w.service,
    r.enabled is not null as has_endpoint,
    dlq._is_paused(w.service) or not coalesce(r.enabled, true) or t.cap is not null as is_held,
    dlq._missing_secret(w.service) as missing_secret,
    (select min(e.next_retry_at) from public.webhook_dlq as e where e.status = 'pending' and e.service = w.service) as first_due
  from dlq._waiting_services as w
    left join lateral (
      select n.enabled from dlq.endpoints as n where n.service in (w.service, '*') order by n.service = '*' limit 1
    ) as r on true
    left join dlq.endpoint_state as t on t.service = w.service
)
select 'server' as name,
  case when pg_is_in_recovery() then 'warning' else 'ok' end as level,
  case when pg_is_in_recovery() then 'this is a standby: what it says may be behind, and nothing is sent from here'
    else format('PostgreSQL %s, the primary', current_setting('server_version')) end as detail,
  case when pg_is_in_recovery() then 'ask the primary' end as remediation
union all
select 'sender',
  case
    when h.reason is null and (h.pg_net is not null or h.running > 0) then 'ok'
    when h.reason is null and clock_timestamp() < h.patient_until then 'warning'
    else 'error'
  end,
  case
    when h.reason is not null then h.reason
    when h.pg_net is not null then format('pg_net %s in schema net', h.pg_net)
    when h.running > 0 then format('net-worker in schema net, %s running', h.running)
    when h.seen_at is not null then format('no net-worker has been seen since %s', date_trunc('second', h.seen_at))
    else 'no net-worker has been seen'
  end,
  case
    when h.reason is not null then 'see docs/errors.md#wd004'
    when h.pg_net is null and h.running = 0 then 'keep this running: dlqctl net-worker'
  end
from (
  select
    dlq._why_not_sending() as reason,
    (select x.extversion from pg_catalog.pg_extension as x where x.extname = 'pg_net') as pg_net,
    count(*) filter (where w.stopped_at is null and w.seen_at > clock_timestamp() - interval '1 minute') as running,
    max(w.seen_at) as seen_at,
    -- After a stop or a fall a minute to come back in, after the install as long as the processor has.
    greatest(max(w.seen_at) + interval '1 minute', (select s.installed_at + s.processor from settings as s)) as patient_until
  from dlq.net_workers as w
) as h
union all
-- Whoever can read the queue reads what is sent; whoever can write there can make us believe an answer that nobody gave.
-- Not everywhere can it be ended, so it is a warning only while a secret lies open there that a signature could replace.
select 'pg_net grants',
  case when g.rights is not null and (
    exists (select from dlq.endpoints as e where e.auth_secret is not null)
    or exists (select from dlq.alert_channels as c where c.kind <> 'webhook' or c.url like '%{secret}%')) then 'warning' else 'ok' end,
  case when g.rights is null then 'PUBLIC has no right on its tables'
    else format('PUBLIC may %s on its tables: it can read every request, with its secrets, and forge an answer', g.rights) end,
  case when g.rights is not null then
    'as a superuser, where one may: revoke all on all tables in schema net from public; '
    || 'revoke all on all sequences in schema net from public; then dlqctl migrate; see docs/access.md' end
from (
  select string_agg(distinct lower(a.privilege_type), ', ') as rights
  from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    cross join lateral aclexplode(c.relacl) as a
  where n.nspname = 'net' and c.relname in ('http_request_queue', '_http_response') and a.grantee = 0
    and has_schema_privilege('public', n.oid, 'usage')
) as g
union all
select 'answers',
  case when u.since < s.now - s.answers then 'error' else 'ok' end,
  case when u.since < s.now - s.answers then format('%s handed to the sender and not answered, the first since %s',
      u.n, date_trunc('second', u.since))
    else format('nothing has waited for one longer than %s minutes', floor(extract(epoch from s.answers) / 60)) end,
  case when u.since < s.now - s.answers then
    case when exists (select from pg_catalog.pg_extension as x where x.extname = 'pg_net') then 'select net.worker_restart()'
    else 'keep this running: dlqctl net-worker' end end
from settings as s
  cross join lateral (
    select count(*) as n, min(e.last_retry_at) as since from public.webhook_dlq as e where e.status = 'processing'
  ) as u
union all
select 'processor',
  case
    when r.is_silent then 'error'
    when l.id is null or l.status in ('error', 'interrupted') then 'warning'
    else 'ok'
  end,
  case
    when l.id is null then 'it has not run yet'
    else format('last run %s ago, %s%s',
      date_trunc('second', clock_timestamp() - l.processed_at), l.status, coalesce(': ' || l.error_message, ''))
  end,
  case
    when r.is_silent then 'dlqctl verify-cron'
    when l.id is null then format('wait for the schedule: it runs every %s minutes', s.cycle_minutes)
    when l.status in ('error', 'interrupted') then
      'select * from dlq_processing_log order by processed_at desc limit 20'
  end
from settings as s
  left join last_run as l on true
  cross join lateral (
    select coalesce(l.processed_at + coalesce(l.duration, '0'), s.installed_at) < clock_timestamp() - s.processor as is_silent
  ) as r
union all
select 'retention',
  case when r.is_late or m.status in ('partial', 'error') then 'warning' else 'ok' end,
  case
    when m.id is null then 'what is old has not been removed yet'
    else format('last run %s ago, %s, %s entries removed%s%s', date_trunc('second', clock_timestamp() - m.began_at), m.status,
      m.entries, ', ' || case when m.left_over > 10000 then 'more than 10000' else m.left_over::text end || ' left over',
      ': ' || m.error_message)
  end,
  case
    when r.is_late then 'dlqctl maintain; and for the schedule: dlqctl verify-cron'
    when m.status = 'partial' then 'dlqctl maintain; if that is so every day, raise maintain_budget in dlq.settings'
    when m.status = 'error' then 'select * from dlq.maintenance_log order by id desc limit 20'
  end
from settings as s
  left join lateral (
    select l.* from dlq.maintenance_log as l where l.status in ('ok', 'partial', 'error') order by l.id desc limit 1
  ) as m on true
  cross join lateral (
    select coalesce(m.began_at, s.installed_at) < clock_timestamp() - s.retention as is_late
  ) as r
union all
select 'overdue',
  case when o.n > 0 then 'warning' else 'ok' end,
  case when o.n > 0 then format('since %s, in %s', o.since, o.services) else format('nothing has waited longer than %s minutes', floor(extract(epoch from s.overdue) / 60)) end,
  case when o.n > 0 then 'dlqctl process; if that does not help: select * from dlq.backlog' end
from settings as s
  cross join lateral (
    select count(*) as n, date_trunc('second', min(v.first_due)) as since,
      string_agg(v.service, ', ' order by v.first_due) as services
    from services as v
    where v.has_endpoint and not v.is_held and v.missing_secret is null and v.first_due < s.now - s.overdue
  ) as o
union all
select 'endpoints',
  case when u.n > 0 then 'error' else 'ok' end,
  case when u.n > 0 then format('nobody has said where to retry: %s', u.services)
    else 'every waiting service has one' end,
  case when u.n > 0 then format('dlqctl endpoints set %s URL', u.first) end
from (
  select count(*) as n, min(v.service) as first, string_agg(v.service, ', ' order by v.service) as services
  from services as v
  where not v.has_endpoint
) as u
union all
select 'secrets',
  case when m.n > 0 then 'error' else 'ok' end,
  case when m.n > 0 then m.missing else 'every waiting service has its own' end,
  case when m.n > 0 then 'dlqctl secrets list' end
from (
  select count(*) as n, string_agg(format('%s waits: %s', v.service, v.missing_secret), '; ' order by v.service) as missing
  from services as v
  where v.missing_secret is not null
) as m
union all
select 'circuits',
  case when c.since < s.now - s.circuits then 'error' when c.n > 0 then 'warning' else 'ok' end,
  case when c.n > 0 then c.circuits else 'every endpoint takes what is sent' end,
  case when c.n > 0 then 'mend the endpoint, and it goes on by itself; at once: dlqctl endpoints reset ' || c.first || ' --reason WHY' end
from settings as s
  cross join lateral (
    select count(*) as n, min(t.failing_since) as since, (array_agg(t.service order by t.failing_since))[1] as first,
      string_agg(format('%s fails since %s (%s), next try %s', t.service, date_trunc('second', t.failing_since), t.trouble,
        date_trunc('second', t.probe_at)), '; ' order by t.failing_since) as circuits
    from dlq.endpoint_state as t
    where t.cap = 0
  ) as c
union all
select 'paused',
  case when p.n > 0 then 'warning' else 'ok' end,
  case when p.n > 0 then p.pauses else 'nothing' end,
  case when p.n > 0 then case when p.first = '*' then 'dlqctl resume' else format('dlqctl resume %s', p.first) end end
from (
  select count(*) as n, min(p.service) as first,
    string_agg(format('%s by %s: %s', case p.service when '*' then 'everything' else p.service end, p.paused_by, p.reason),
      '; ' order by p.service) as pauses
  from dlq.pauses as p, settings as s
  where p.paused_until is null or p.paused_until > s.now
) as p
union all
select 'pending',
  case when p.n > s.pending then 'warning' else 'ok' end,
  format('%s%s waiting', case when p.n > 10000 then 'more than ' else '' end, least(p.n, 10000)),
  case when p.n > s.pending then 'select * from dlq.backlog' end
from settings as s, pending as p
union all
select 'failed',
  case when f.n > s.failed then 'error' when f.n > 0 then 'warning' else 'ok' end,
  format('%s%s failed in the last hour', case when f.n > 10000 then 'more than ' else '' end, least(f.n, 10000)),
  case when f.n > 0 then 'select id, service, settled_at from dlq.entries where status = ''failed'' order by settled_at desc limit 20' end
from settings as s, failed as f
union all
select a.name, a.level, a.detail, a.remediation
from dlq._health_alerts as a;

comment on view dlq.health is
$$How the queue is, one row a check: name, level (ok, warning, error), detail, and remediation: what to type.
Safe on a standby, and in milliseconds whatever is stored.$$;
comment on column dlq.health.name is 'What is looked at.';
comment on column dlq.health.level is 'ok, warning or error.';
comment on column dlq.health.detail is 'How it is.';
comment on column dlq.health.remediation is 'What to type. Null if there is nothing to do.';
