-- The services that have anything pending. Leaps from one to the next through the index of waiting entries, instead of
-- reading it: a million waiting entries of ten services cost ten steps.
create or replace view dlq._waiting_services
as
with recursive waiting (service) as (
  (select e.service from public.webhook_dlq as e where e.status = 'pending' order by e.service limit 1)
  union all
  select (
    select e.service from public.webhook_dlq as e
    where e.status = 'pending' and e.service > w.service
    order by e.service limit 1)
  from waiting as w
  where w.service is not null
)
select w.service
from waiting as w
where w.service is not null;

comment on view dlq._waiting_services is 'The services that have anything pending.';
