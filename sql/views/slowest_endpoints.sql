-- How long the endpoints take, the slowest first. Reads the counts of attempts, and no attempt.
create or replace view dlq.slowest_endpoints
as
select
  c.service,
  sum(c.attempts)::bigint as attempts,
  round((sum(c.seconds) / sum(c.attempts))::numeric, 3) as mean_seconds,
  round(max(c.seconds_max)::numeric, 3) as max_seconds,
  sum(c.timeouts)::bigint as timeouts
from dlq.attempt_counts as c
where c.hour > dlq._now() - interval '25 hours' and c.outcome in ('delivered', 'http_error', 'network_error', 'echoed')
group by c.service
order by mean_seconds desc, c.service;

comment on view dlq.slowest_endpoints is
$$How long each service's attempts took in this hour and the 24 before it, the slowest first: attempts, mean and maximum in seconds,
and how many had no answer in time. From dispatch to collection, as the queue sees it: the wait in the sender's queue, for the slowest
request of pg_net's batch and for the processor's next pass is part of it. What nobody knows the outcome of is left out.$$;
comment on column dlq.slowest_endpoints.service is 'As in webhook_dlq.service.';
comment on column dlq.slowest_endpoints.attempts is 'Attempts that ended, but for those that were not sent or have no known outcome.';
comment on column dlq.slowest_endpoints.mean_seconds is 'How long they took, on average.';
comment on column dlq.slowest_endpoints.max_seconds is 'How long the longest took.';
comment on column dlq.slowest_endpoints.timeouts is 'How many of them had no answer in time.';
