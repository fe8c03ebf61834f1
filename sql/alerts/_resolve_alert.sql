-- Resolves an alert, and lets those know who have been told of it: also who is silenced, since it takes something off the list.
-- What nobody has been sent yet is not sent any more, nor again what waits for a channel that is disabled or removed: that one is told
-- when it is enabled, or set again, that it is over, and of nothing else.
create or replace function dlq._resolve_alert(alert_id bigint)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  update dlq.alerts as a
  set resolved_at = dlq._now(), edge = a.edge + 1
  where a.id = _resolve_alert.alert_id;

  update dlq.alert_deliveries as d
  set status = 'superseded', settled_at = dlq._now()
  where d.alert_id = _resolve_alert.alert_id and d.status = 'waiting'
    and (d.attempts = 0 or not exists (select from dlq.alert_channels as c where c.name = d.channel and c.enabled));

  insert into dlq.alert_deliveries (alert_id, edge, rule, channel, event, created_at, next_try_at)
  select a.id, a.edge, a.rule, d.channel, 'resolved', dlq._now(), dlq._now()
  from dlq.alerts as a
    join dlq.alert_deliveries as d on d.alert_id = a.id
  where a.id = _resolve_alert.alert_id and d.attempts > 0
  group by a.id, d.channel;
end
$$;

comment on function dlq._resolve_alert(bigint) is 'Resolves an alert, and has those told who have been told of it.';
