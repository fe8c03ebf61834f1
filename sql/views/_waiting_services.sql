-- The services that have anything pending. Leaps from one to the next through the index of waiting entries, instead of
-- reading it: a million waiting entries of ten services cost ten steps. From the last to the first, and to the youngest entry of each:
-- those that were sent are the oldest, and stay in the index, dead, while somebody holds a transaction open.
create or replace view dlq._waiting_services
as
with recursive waiting (service) as (
  (select e.service from public.webhook_dlq as e where e.status = 'pending' order by e.service desc, e.next_retry_at desc limit 1)
  union all
  select (
    select e.service from public.webhook_dlq as e
    where e.status = 'pending' and e.service < w.service
    order by e.service desc, e.next_retry_at desc limit 1)
  from waiting as w
  where w.service is not null
)
select w.service
from waiting as w
where w.service is not null;

comment on view dlq._waiting_services is 'The services that have anything pending.';
