-- What fails, most frequent first. Reads the counts of attempts, and no attempt.
create or replace view dlq.top_failures
as
select
  c.service, c.outcome, nullif(c.status_code, 0) as status_code, sum(c.attempts)::bigint as attempts, max(c.hour) as last_hour
from dlq.attempt_counts as c
where c.hour > dlq._now() - interval '25 hours' and c.outcome <> 'delivered'
group by c.service, c.outcome, c.status_code
order by attempts desc, c.service, c.outcome, c.status_code;

comment on view dlq.top_failures is
$$What failed in this hour and the 24 before it, most frequent first: service, outcome as in dlq.delivery_attempts, HTTP status (null:
there was no answer), attempts, and the hour in which it last happened.$$;
comment on column dlq.top_failures.service is 'As in webhook_dlq.service.';
comment on column dlq.top_failures.outcome is 'As in dlq.delivery_attempts.';
comment on column dlq.top_failures.status_code is 'The HTTP status. Null: there was no answer.';
comment on column dlq.top_failures.attempts is 'How many ended so.';
comment on column dlq.top_failures.last_hour is 'The hour in which the last of them ended.';
