-- How many attempts went well, by hour and service. Reads the counts of attempts, and no attempt.
create or replace view dlq.success_rate
as
select
  c.hour,
  c.service,
  sum(c.attempts)::bigint as attempts,
  coalesce(sum(c.attempts) filter (where c.outcome = 'delivered'), 0)::bigint as delivered,
  coalesce(sum(c.attempts) filter (where c.outcome = 'unanswered'), 0)::bigint as unanswered,
  round(
    coalesce(sum(c.attempts) filter (where c.outcome = 'delivered'), 0)
      / nullif(sum(c.attempts) filter (where c.outcome <> 'unanswered'), 0), 4) as ratio
from dlq.attempt_counts as c
where c.hour > dlq._now() - interval '7 days'
group by c.hour, c.service;

comment on view dlq.success_rate is
$$How many attempts went well in the last 7 days, by hour (in UTC) and service: attempts, delivered, unanswered, and ratio: delivered
by those of which the outcome is known, 0 to 1; null if that is none. It counts attempts: an entry that is delivered at its third is 0.3333.$$;
comment on column dlq.success_rate.hour is 'The beginning of the hour, in UTC.';
comment on column dlq.success_rate.service is 'As in webhook_dlq.service.';
comment on column dlq.success_rate.attempts is 'Attempts that ended in that hour.';
comment on column dlq.success_rate.delivered is 'Those of them that delivered.';
comment on column dlq.success_rate.unanswered is 'Those of which nobody knows the outcome.';
comment on column dlq.success_rate.ratio is 'delivered by those of which the outcome is known: 0 to 1. Null: there is none.';
