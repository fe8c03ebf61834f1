-- Hands one delivery to the sender, and records it: queued in pg_net and in flight, or neither. Raises what net.http_post() raises,
-- WD005 if the channel's secret is missing or cannot be part of a URL.
create or replace function dlq._post_alert(alert_id bigint, channel text, edge integer)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  c_timeout_ms constant integer := 10000;
  v_channel dlq.alert_channels;
  v_delivery dlq.alert_deliveries;
  v_facts jsonb;
  v_secret text;
  v_url text;
  v_body jsonb;
  v_headers jsonb := '{"content-type": "application/json"}';
  v_request_id bigint;
  v_state text;
  v_message text;
begin
  select c.* into strict v_channel from dlq.alert_channels as c where c.name = _post_alert.channel;
  select d.* into strict v_delivery
  from dlq.alert_deliveries as d
  where d.alert_id = _post_alert.alert_id and d.channel = _post_alert.channel and d.edge = _post_alert.edge;
  select dlq._alert_facts(a, v_delivery.event) into strict v_facts from dlq.alerts as a where a.id = _post_alert.alert_id;

  v_url := v_channel.url;
  if v_channel.secret is not null and not (v_channel.kind = 'webhook' and position('{secret}' in v_url) = 0) then
    v_secret := dlq._secret(v_channel.secret);
  end if;
  if position('{secret}' in v_url) > 0 then
    -- People keep the whole URL, as they were given it.
    v_secret := regexp_replace(v_secret, '^' || regexp_replace(split_part(v_url, '{secret}', 1), '([^[:alnum:]])', '\\\1', 'g'), '');
    if v_secret !~ '^[!-~]+$' or v_secret like '%://%' then
      raise exception using
        errcode = 'WD005',
        message = format('the secret %s cannot be part of the url of %s', v_channel.secret, v_channel.name),
        hint = format('It is what stands in place of {secret}: dlqctl secrets set %s', v_channel.secret);
    end if;
    v_url := replace(v_url, '{secret}', v_secret);
  end if;

  case v_channel.kind
    when 'pagerduty' then
      v_body := dlq._pagerduty_event(v_facts, v_secret);
    when 'slack' then
      v_body := dlq._slack_message(v_facts);
    when 'webhook' then
      v_body := jsonb_build_object('type', 'dlq.alert.' || v_delivery.event, 'timestamp', dlq._now(), 'data', v_facts);
      v_headers := v_headers || jsonb_build_object('webhook-id', format('%s:%s:%s', v_facts ->> 'dedup_key', alert_id, edge));
      if v_channel.secret is not null and v_secret is null then
        v_headers := v_headers || dlq._sign(
          'standard-webhooks', dlq._signing_keys('standard-webhooks', array[v_channel.secret]),
          v_headers ->> 'webhook-id', clock_timestamp(), convert_to(v_body::text, 'UTF8'));
      end if;
  end case;

  begin
    v_request_id := net.http_post(url := v_url, body := v_body, headers := v_headers, timeout_milliseconds := c_timeout_ms);
  exception when others then
    -- pg_net quotes a URL that it does not take, and what is raised here is told: in health, and to the other channels.
    get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
    raise exception using errcode = v_state, message = coalesce(replace(v_message, v_secret, '{secret}'), v_message);
  end;
  insert into dlq.alert_requests (request_id, alert_id, dispatched_at, net_oid, edge, timeout_ms, rule, channel)
  values (
    v_request_id, v_delivery.alert_id, clock_timestamp(),
    -- As in dlq._send(): an id that is answered already is not ours.
    case when v_request_id in (
        select r.id from net._http_response as r where r.created >= now() - interval '5 minutes' and r.id is not null)
      then 0 else to_regclass('net._http_response') end,
    v_delivery.edge, c_timeout_ms, v_delivery.rule, v_delivery.channel);
  update dlq.alert_deliveries as d
  set status = 'sent', sent_at = clock_timestamp(), attempts = d.attempts + 1
  where d.alert_id = v_delivery.alert_id and d.channel = v_delivery.channel and d.edge = v_delivery.edge;
end
$$;

comment on function dlq._post_alert(bigint, text, integer) is
'Hands one delivery to the sender. WD005: its secret is missing, or not what it should be. Raises what net.http_post() raises.';
