-- Removes a channel, and what is on its way to it. What it was told of what is raised is forgotten: a channel of that name that is set
-- later is another one, and is told. False if there was none.
create or replace function dlq.remove_alert_channel(name text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  delete from dlq.alert_channels as c where c.name = remove_alert_channel.name;
  if not found then
    return false;
  end if;
  delete from dlq.alert_deliveries as d
  using dlq.alerts as a
  where d.channel = remove_alert_channel.name and a.id = d.alert_id and a.resolved_at is null;
  update dlq.alert_deliveries as d
  set status = 'superseded', settled_at = dlq._now(), error = 'the channel was removed'
  where d.channel = remove_alert_channel.name and d.status in ('waiting', 'sent');
  return true;
end
$$;

comment on function dlq.remove_alert_channel(text) is 'Removes a channel, and what is on its way to it. False if there was none.';
