-- Every channel, and whether it takes what it is sent. trouble is what is wrong with it, in words: its secret is missing, it refused or
-- did not answer the last that was settled, or the one under way has failed three times.
create or replace view dlq.alert_channel_states
as
select
  c.name, c.kind, c.host, c.secret, c.severities, c.enabled, c.created_at,
  l.settled_at as last_settled_at,
  l.status as last_status,
  coalesce(w.n, 0) as waiting,
  case
    when k.trouble is not null then k.trouble
    when l.status in ('refused', 'given_up') then
      format('%s %s: %s', l.status, date_trunc('second', l.settled_at), coalesce(l.error, 'no reason'))
    when f.attempts is not null then format('fails since %s: %s', date_trunc('second', f.created_at), f.error)
  end as trouble
from dlq.alert_channels as c
  cross join lateral (select dlq._missing_key(c.name) as trouble) as k
  left join lateral (
    select d.* from dlq.alert_deliveries as d
    where d.channel = c.name and d.settled_at is not null and d.status <> 'superseded'
    order by d.settled_at desc, d.alert_id desc, d.edge desc
    limit 1
  ) as l on true
  left join lateral (
    select d.* from dlq.alert_deliveries as d
    where d.channel = c.name and d.status in ('waiting', 'sent') and d.error is not null
      and (d.attempts >= 3 or d.attempts = 0)
    order by d.created_at
    limit 1
  ) as f on true
  left join lateral (
    select count(*) as n from dlq.alert_deliveries as d where d.channel = c.name and d.status in ('waiting', 'sent')
  ) as w on true;

comment on view dlq.alert_channel_states is
'Every channel, how its last delivery ended, how many wait, and what is wrong with it, in words; null if nothing is.';
