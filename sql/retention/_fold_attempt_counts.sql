-- Adds the hours that are older than the setting says to one row of each kind, in one statement, so that whoever adds up all
-- rows reads the same sum before and after: it is a counter, and never decreases.
create or replace function dlq._fold_attempt_counts()
returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
with old as (
  delete from dlq.attempt_counts as c
  where c.hour > '-infinity' and c.hour <= (select dlq._now() - s.retain_runs from dlq.settings as s)
  returning c.*
)
insert into dlq.attempt_counts as c (hour, service, outcome, status_code, attempts, timeouts, seconds, seconds_max)
select '-infinity', o.service, o.outcome, o.status_code, sum(o.attempts), sum(o.timeouts), sum(o.seconds), max(o.seconds_max)
from old as o
group by o.service, o.outcome, o.status_code
on conflict (hour, service, outcome, status_code) do update
set
  attempts = c.attempts + excluded.attempts,
  timeouts = c.timeouts + excluded.timeouts,
  seconds = c.seconds + excluded.seconds,
  seconds_max = greatest(c.seconds_max, excluded.seconds_max)
$$;

comment on function dlq._fold_attempt_counts() is
'Adds the hours of dlq.attempt_counts that are older than dlq.settings.retain_runs to its rows of hour -infinity.';
