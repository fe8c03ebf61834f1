-- From when on a line of health is not well, in one row with a column for each rule that has such a bound.
create or replace view dlq._thresholds
as
select
  max(r.longer_than) filter (where r.name = 'processor') as processor,
  max(r.longer_than) filter (where r.name = 'answers') as answers,
  max(r.longer_than) filter (where r.name = 'circuits') as circuits,
  max(r.longer_than) filter (where r.name = 'retention') as retention,
  coalesce(
    max(r.longer_than) filter (where r.name = 'overdue'),
    (select 2 * s.cycle_minutes * interval '1 minute' from dlq.settings as s)) as overdue,
  max(r.more_than) filter (where r.name = 'pending') as pending,
  max(r.more_than) filter (where r.name = 'failed') as failed
from dlq.alert_rules as r;

comment on view dlq._thresholds is 'The thresholds of dlq.alert_rules, one row: an interval or a number for each rule that has one.';
