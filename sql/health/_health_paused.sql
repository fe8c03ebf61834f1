-- What a person holds back, and why. A disabled endpoint has no reason on record but in dlq.audit_log, and is told while somebody waits.
create or replace view dlq._health_paused
as
select
  'paused' as name,
  case when p.n > 0 then 'warning' else 'ok' end as level,
  case when p.n > 0 then p.pauses else 'nothing' end as detail,
  case
    when p.n = 0 then null
    when p.first is null then format('dlqctl endpoints set %s URL --enable', p.disabled)
    when p.first = '*' then 'dlqctl resume'
    else format('dlqctl resume %s', p.first)
  end as remediation
from (
  select count(*) as n, min(h.service) filter (where h.is_pause) as first, min(h.service) filter (where not h.is_pause) as disabled,
    dlq._a_few(array_agg(h.words order by h.service), '; ') as pauses
  from (
    select true as is_pause, p.service,
      format('%s by %s: %s', case p.service when '*' then 'everything' else p.service end, p.paused_by, p.reason) as words
    from dlq.pauses as p
    where p.paused_until is null or p.paused_until > dlq._now()
    union all
    select false, v.service, format('the endpoint of %s is disabled, and webhooks wait', v.service)
    from dlq._waiting as v
    where v.is_disabled
  ) as h
) as p;

comment on view dlq._health_paused is
'Check: what a person has paused or disabled. A warning.';
