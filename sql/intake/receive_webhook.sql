-- The door for webhooks that have failed: stores one only if its signature is right, by the scheme and secrets of its
-- service's endpoint, and only once. What was stored before, within dlq.settings.replay_window, is a duplicate, and goes by
-- what the signature covers: x-hub-signature-256 alone does not tell a replay from a delivery.
-- Our own retries are signed like the provider's webhooks, so they come through here too: a failure of one is an echo.
-- Safe beside itself: of two at once with one body, one is accepted.
-- Raises WD001 as store_dlq_entry() does, WD005 if a secret is missing, WD006 if nothing says how the service signs.
create or replace function dlq.receive_webhook(
  service text,
  raw_body bytea,
  headers jsonb,
  error_message text default null,
  phone_number text default null
)
returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_route record;
  v_verdict record;
  v_key text;
  v_known uuid;
  v_id uuid;
begin
  select r.signing, r.secret_names into v_route from dlq._route(receive_webhook.service) as r;
  if v_route.signing is null then
    raise exception using
      errcode = 'WD006',
      message = format('nothing says how webhooks of %s are signed', coalesce(quote_literal(receive_webhook.service), 'null')),
      detail = 'Nothing was stored.',
      hint = 'For example: dlqctl endpoints set SERVICE URL --signing x-hub-signature-256 --secret WHATSAPP_APP_SECRET';
  end if;
  select v.* into v_verdict
  from dlq.verify_signature(receive_webhook.raw_body, receive_webhook.headers, v_route.secret_names, v_route.signing) as v;
  if not v_verdict.is_valid then
    return jsonb_build_object('status', 'invalid_signature', 'reason', v_verdict.reason);
  end if;

  v_key := dlq._delivery_key(v_route.signing, receive_webhook.raw_body, receive_webhook.headers);
  -- Of two at once with one key the second waits for the first, and finds it.
  perform pg_advisory_xact_lock(hashtextextended(receive_webhook.service || ' ' || v_key, 6581361));
  v_known := dlq._entry_with_key(receive_webhook.service, v_key);
  if v_known is not null then
    update public.webhook_dlq as e  -- after so long, the same body is another webhook
    set idempotency_key = null
    where e.id = v_known and e.created_at < dlq._now() - (select s.replay_window from dlq.settings as s);
    if found then
      v_known := null;
    end if;
  end if;

  v_id := public.store_dlq_entry(
    service => receive_webhook.service,
    raw_body => receive_webhook.raw_body,
    headers => dlq._without_keys(receive_webhook.headers),
    error_message => receive_webhook.error_message,
    phone_number => receive_webhook.phone_number,
    idempotency_key => v_key);
  return jsonb_build_object(
    'status', case
      -- An echo is kept under the entry that was retried, and not under this key.
      when v_known is null and v_id = dlq._entry_with_key(receive_webhook.service, v_key) then 'accepted'
      else 'duplicate' end,
    'id', v_id);
end
$$;

comment on function dlq.receive_webhook(text, bytea, jsonb, text, text) is
$$Stores a failed webhook if its signature is right, once. raw_body: the bytes as they came; headers: one JSON object.
Returns {"status": "accepted" | "duplicate", "id"} or {"status": "invalid_signature", "reason"}.
WD001: not in order. WD005: a secret is missing. WD006: nothing says how the service signs.$$;
