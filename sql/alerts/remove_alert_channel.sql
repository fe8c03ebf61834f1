-- Removes a channel, and what it has not been sent yet. What it has been sent is kept: a channel that is set later by this name
-- is told anew of what is raised, by dlq._queue_alerts(), and of the end of what was told before, since whoever was told may be the
-- same: a pager's incident stays open until then. False if there was none.
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
  where d.channel = remove_alert_channel.name and d.status = 'waiting' and d.attempts = 0 and d.event <> 'resolved';
  update dlq.alert_deliveries as d
  set status = 'superseded', settled_at = dlq._now(), error = 'the channel was removed'
  where d.channel = remove_alert_channel.name and d.status in ('waiting', 'sent') and d.rule = 'test';
  return true;
end
$$;

comment on function dlq.remove_alert_channel(text) is
$$Removes a channel, and what is on its way to it, but for what tells that something is over: that waits for a channel that is set
by the same name. False if there was none.$$;
