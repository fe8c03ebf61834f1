-- Says who is told of alerts. What is null stays as it is, or takes its default on a new row: the URLs of PagerDuty and Slack, every
-- severity. A channel that becomes one of another kind begins with that kind's URL.
create or replace function dlq.set_alert_channel(
  name text,
  kind text default null,
  url text default null,
  secret text default null,
  severities text[] default null,
  enabled boolean default null,
  allow_http boolean default null,
  allow_private boolean default null
)
returns dlq.alert_channels
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_channel dlq.alert_channels;
  v_constraint text;
begin
  insert into dlq.alert_channels as c (name, kind, url, secret, severities, enabled, allow_http, allow_private)
  select
    set_alert_channel.name,
    k.kind,
    coalesce(set_alert_channel.url, case when o.kind = k.kind then o.url end, case k.kind
      when 'pagerduty' then 'https://events.pagerduty.com/v2/enqueue'
      when 'slack' then 'https://hooks.slack.com/services/{secret}' end),
    nullif(coalesce(set_alert_channel.secret, o.secret), 'none'),
    coalesce(set_alert_channel.severities, o.severities, '{critical,error,warning,info}'),
    coalesce(set_alert_channel.enabled, o.enabled, true),
    coalesce(set_alert_channel.allow_http, o.allow_http, false),
    coalesce(set_alert_channel.allow_private, o.allow_private, false)
  from (select) as one
    left join dlq.alert_channels as o on o.name = set_alert_channel.name
    cross join lateral (select coalesce(set_alert_channel.kind, o.kind) as kind) as k
  on conflict on constraint alert_channels_pkey do update
  set
    kind = excluded.kind, url = excluded.url, secret = excluded.secret, severities = excluded.severities,
    enabled = excluded.enabled, allow_http = excluded.allow_http, allow_private = excluded.allow_private, updated_at = now()
  returning c.* into v_channel;
  return v_channel;
exception when check_violation or not_null_violation then
  get stacked diagnostics v_constraint = constraint_name;
  perform dlq._refuse_row(
    format('the channel %s', coalesce(set_alert_channel.name, 'null')), 'dlq.alert_channels', v_constraint,
    'Give a name, a kind (pagerduty, slack, webhook) and, for a webhook, a url.');
end
$$;

comment on function dlq.set_alert_channel(text, text, text, text, text[], boolean, boolean, boolean) is
$$Says who is told of alerts, and returns the channel. What is null stays as it is; a secret ends by saying none. WD002: something is
not in order; the hint says what.$$;
