-- What a person holds back, and why.
create or replace view dlq._health_paused
as
select
  'paused' as name,
  case when p.n > 0 then 'warning' else 'ok' end as level,
  case when p.n > 0 then p.pauses else 'nothing' end as detail,
  case when p.n > 0 then case when p.first = '*' then 'dlqctl resume' else format('dlqctl resume %s', p.first) end end as remediation
from (
  select count(*) as n, min(p.service) as first,
    string_agg(format('%s by %s: %s', case p.service when '*' then 'everything' else p.service end, p.paused_by, p.reason),
      '; ' order by p.service) as pauses
  from dlq.pauses as p
  where p.paused_until is null or p.paused_until > dlq._now()
) as p;

comment on view dlq._health_paused is
'Check: what a person has paused. A warning.';
