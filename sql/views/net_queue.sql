-- What waits in the sender's queue, one row.
create or replace view dlq.net_queue
as
select q.waiting, q.waiting_ours, q.in_flight
from dlq._net_queue() as q;

comment on view dlq.net_queue is
$$What waits in the sender's queue, one row: requests waiting, those of them that are ours, and our requests in flight: waiting,
being sent, or answered and not collected. Counts stop at 10,000. All null on a standby, which has none of it.$$;
comment on column dlq.net_queue.waiting is 'Requests that wait, whoever made them.';
comment on column dlq.net_queue.waiting_ours is 'Those of them that are ours.';
comment on column dlq.net_queue.in_flight is 'Our requests that wait, are being sent, or are answered and not collected.';
