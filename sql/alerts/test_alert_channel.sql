-- Sends an alert of no rule to a channel, raised and resolved at once, whether or not the channel is enabled: the first is sent
-- when this commits, the second by dlq.deliver_alerts() once the first is answered. Neither is tried twice. Returns the alert's id:
-- dlq.alert_deliveries has the answers.
create or replace function dlq.test_alert_channel(name text)
returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_why text := dlq._why_not_sending();
  v_alert bigint;
begin
  if v_why is not null then
    raise exception using errcode = 'WD004', message = v_why;
  end if;
  if not exists (select from dlq.alert_channels as c where c.name = test_alert_channel.name) then
    raise exception using
      errcode = 'WD002',
      message = format('there is no channel %s', coalesce(test_alert_channel.name, 'null')),
      hint = 'dlqctl alerts channel list';
  end if;
  insert into dlq.alerts (since, raised_at, resolved_at, edge, rule, severity, detail, remediation)
  values (
    dlq._now(), dlq._now(), dlq._now(), 2, 'test', 'info',
    format('a test of the channel %s by %s; it resolves itself', test_alert_channel.name, session_user), 'nothing')
  returning id into v_alert;
  insert into dlq.alert_deliveries (alert_id, edge, rule, channel, event, created_at, next_try_at)
  select v_alert, e.edge, 'test', test_alert_channel.name, e.event, dlq._now(), dlq._now()
  from (values (1, 'raised'), (2, 'resolved')) as e (edge, event);
  perform dlq.deliver_alerts();
  return v_alert;
end
$$;

comment on function dlq.test_alert_channel(text) is
$$Sends a test to a channel, raised and then resolved, and returns its id in dlq.alerts. Call dlq.deliver_alerts() until both are
settled in dlq.alert_deliveries. WD002: no such channel. WD004: nothing may be sent from here.$$;
