-- Records how a delivery's request ended: delivered, refused for good, or to be tried again, first after half a minute, then ever
-- later, at least every quarter of an hour, until the alert is stale. PagerDuty and Slack say of 429 and 5xx that another try may be
-- taken, and nothing else changes by itself.
create or replace function dlq._settle_alert(
  request dlq.alert_requests,
  outcome text,
  status_code integer,
  error text,
  reply text,
  wait interval
)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text := case
    when outcome = 'delivered' then 'delivered'
    when outcome = 'http_error' and status_code < 500 and status_code not in (408, 425, 429) then 'refused'
    when dlq._is_stale(request.alert_id) then 'given_up'
    else 'waiting'
  end;
begin
  delete from dlq.alert_requests as q where q.rule = request.rule and q.channel = request.channel;

  update dlq.alert_deliveries as d
  set
    status = v_status,
    settled_at = case when v_status <> 'waiting' then dlq._now() end,
    next_try_at = dlq._now() + greatest(
      least(coalesce(_settle_alert.wait, interval '0'), interval '1 hour'),
      least(interval '30 seconds' * 2 ^ least(d.attempts - 1, 10), interval '15 minutes')),
    status_code = _settle_alert.status_code,
    error = _settle_alert.error,
    reply = _settle_alert.reply
  where d.alert_id = request.alert_id and d.channel = request.channel and d.edge = request.edge and d.status = 'sent';
end
$$;

comment on function dlq._settle_alert(dlq.alert_requests, text, integer, text, text, interval) is
'Records how a delivery''s request ended: outcome as in dlq.delivery_attempts, and the wait that the answer asks for.';
