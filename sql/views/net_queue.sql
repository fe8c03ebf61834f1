-- What waits in the sender's queue, one row.
create or replace view dlq.net_queue
as
select q.waiting, q.waiting_ours, q.in_flight
from dlq._net_queue() as q;

comment on view dlq.net_queue is
$$What waits in the sender's queue, one row: requests waiting, those of them that are ours, and our requests in flight: waiting,
being sent, or answered and not collected. Counts stop at 10,000. All null on a standby, which has none of it.$$;
