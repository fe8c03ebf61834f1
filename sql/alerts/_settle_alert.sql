-- Records how a delivery's request ended: delivered, refused for good, or to be tried again, first after half a minute, then ever
-- later, at least every quarter of an hour, until the alert is stale. PagerDuty and Slack say of 429 and 5xx that another try may be
-- taken, and nothing else changes by itself.
create or replace function dlq._settle_alert(
  request dlq.alert_requests, outcome text, status_code integer, error text, reply text, wait interval)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_again boolean := outcome = 'unanswered' or outcome = 'network_error'
    or outcome = 'http_error' and (status_code in (408, 425, 429) or status_code >= 500);
begin
  delete from dlq.alert_requests as q where q.rule = request.rule and q.channel = request.channel;

  update dlq.alert_deliveries as d
  set
    status = s.status,
    settled_at = case when s.status <> 'waiting' then dlq._now() end,
    next_try_at = dlq._now() + greatest(
      least(coalesce(_settle_alert.wait, interval '0'), interval '1 hour'),
      least(interval '30 seconds' * 2 ^ least(d.attempts - 1, 10), interval '15 minutes')),
    status_code = _settle_alert.status_code,
    error = _settle_alert.error,
    reply = _settle_alert.reply
  from dlq.alert_deliveries as o
    cross join lateral (
      select case
        when outcome = 'delivered' then 'delivered'
        when not v_again then 'refused'
        when dlq._is_stale(o.alert_id) then 'given_up'
        else 'waiting'
      end as status
    ) as s
  where o.alert_id = request.alert_id and o.channel = request.channel and o.edge = request.edge and o.status = 'sent'
    and d.alert_id = o.alert_id and d.channel = o.channel and d.edge = o.edge;
end
$$;

comment on function dlq._settle_alert(dlq.alert_requests, text, integer, text, text, interval) is
'Records how a delivery''s request ended: outcome as in dlq.delivery_attempts, and the wait that the answer asks for.';
