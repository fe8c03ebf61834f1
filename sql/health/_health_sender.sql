-- Whether anything sends: pg_net, or a net-worker that was seen lately.
create or replace view dlq._health_sender
as
select
  'sender' as name,
  case
    when h.reason is null and (h.pg_net is not null or h.running > 0) then 'ok'
    when h.reason is null and clock_timestamp() < h.patient_until then 'warning'
    else 'error'
  end as level,
  case
    when h.reason is not null then h.reason
    when h.pg_net is not null then format('pg_net %s in schema net', h.pg_net)
    when h.running > 0 then format('net-worker in schema net, %s running', h.running)
    when h.seen_at is not null then format('no net-worker has been seen since %s', date_trunc('second', h.seen_at))
    else 'no net-worker has been seen'
  end as detail,
  case
    when h.reason is not null then 'see docs/errors.md#wd004'
    when h.pg_net is null and h.running = 0 then 'keep this running: dlqctl net-worker'
  end as remediation
from (
  select
    dlq._why_not_sending() as reason,
    (select x.extversion from pg_catalog.pg_extension as x where x.extname = 'pg_net') as pg_net,
    count(*) filter (where w.stopped_at is null and w.seen_at > clock_timestamp() - interval '1 minute') as running,
    max(w.seen_at) as seen_at,
    -- After a stop or a fall a minute to come back in, after the install as long as the processor has.
    greatest(max(w.seen_at) + interval '1 minute', (select s.installed_at + t.processor from dlq.settings as s, dlq._thresholds as t)) as patient_until
  from dlq.net_workers as w
) as h;

comment on view dlq._health_sender is
'Check: whether anything sends. An error without a sender.';
