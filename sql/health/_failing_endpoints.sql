-- The endpoints that fail and are known to: those that get nothing but probes, and those that have failed for longer than
-- outage_patience, which have no open circuit any more and are no better for it.
create or replace view dlq._failing_endpoints
as
select t.service, t.failing_since, t.trouble, t.cap, t.probe_at
from dlq.endpoint_state as t, dlq.settings as s
where t.cap = 0 or t.failing_since <= dlq._now() - s.outage_patience;

comment on view dlq._failing_endpoints is
'The endpoints that get nothing but probes, or have failed for longer than outage_patience; as in dlq.endpoint_state.';
