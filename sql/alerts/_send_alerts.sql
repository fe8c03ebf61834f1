-- Hands to the sender what is due: of each rule, to each channel, the oldest that is not settled, and nothing else before it is. One
-- that cannot be handed over stays and says why; the others do not wait for it. More than a few at a time are never due.
-- The caller has the lock of alerts.
create or replace function dlq._send_alerts()
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_next record;
  v_sent integer := 0;
  v_state text;
  v_message text;
begin
  if not exists (select from dlq.alert_deliveries as d where d.status in ('waiting', 'sent')) or dlq._lock_sender() is not null then
    return 0;
  end if;

  for v_next in
    select o.alert_id, o.channel, o.edge
    from (
      select distinct on (d.rule, d.channel) d.*
      from dlq.alert_deliveries as d
        join dlq.alert_channels as c on c.name = d.channel and (c.enabled or d.rule = 'test')
      where d.status in ('waiting', 'sent')
      order by d.rule, d.channel, d.alert_id, d.edge
    ) as o
    where o.status = 'waiting' and o.next_try_at <= dlq._now()
    order by o.created_at, o.alert_id
    limit 50
  loop
    begin
      perform dlq._post_alert(v_next.alert_id, v_next.channel, v_next.edge);
      v_sent := v_sent + 1;
    exception when others then
      get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
      update dlq.alert_deliveries as d
      set
        error = format('not sent: %s %s', v_state, v_message),
        status = s.status,
        settled_at = case when s.status <> 'waiting' then dlq._now() end
      from (
        select case when dlq._is_stale(v_next.alert_id) then 'given_up' else 'waiting' end as status
      ) as s
      where d.alert_id = v_next.alert_id and d.channel = v_next.channel and d.edge = v_next.edge;
    end;
  end loop;

  perform dlq._wake_sender() where exists (select from dlq.alert_requests);
  return v_sent;
end
$$;

comment on function dlq._send_alerts() is 'Hands the deliveries of alerts that are due to the sender, and returns how many.';
