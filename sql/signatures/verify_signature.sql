-- Whether the headers' signature is one of this very body under one of these secrets, and why not. Old and new secrets may be
-- given together while one replaces the other. Schemes: x-hub-signature-256 (Meta, GitHub: sha256=<hex HMAC-SHA256 of the
-- body>) and standard-webhooks (webhook-id, webhook-timestamp, webhook-signature: v1,<base64> …, over id.timestamp.body).
-- Signatures are compared by their digests under a random salt: how long that takes tells nothing about them.
-- Raises WD005 if a secret is missing; a signature that is wrong is an answer, no error.
create or replace function dlq.verify_signature(
  body bytea,
  headers jsonb,
  secret_names text[],
  scheme text default 'x-hub-signature-256',
  tolerance interval default '5 minutes',
  out is_valid boolean,
  out reason text
)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys bytea[];
  v_given jsonb;
  v_signed bytea := body;
  v_signatures text[];
  v_salt bytea := uuid_send(gen_random_uuid());
  v_at timestamptz;
  v_tolerance interval := coalesce(tolerance, '5 minutes');
begin
  is_valid := false;
  if coalesce(cardinality(secret_names), 0) = 0 or scheme not in ('x-hub-signature-256', 'standard-webhooks') or scheme is null then
    raise exception using
      errcode = 'WD005',
      message = 'a scheme and at least one secret are needed to verify a signature',
      hint = 'scheme: x-hub-signature-256 or standard-webhooks; secret_names: for example ''{WHATSAPP_APP_SECRET}''';
  end if;
  v_keys := dlq._signing_keys(scheme, secret_names);
  v_given := (  -- of two spellings of one name neither: another reader of these headers might take the other
    select jsonb_object_agg(g.name, g.value)
    from (
      select lower(h.key) as name, max(h.value) as value
      from jsonb_each_text(case when jsonb_typeof(headers) = 'object' then headers end) as h
      where lower(h.key) in ('x-hub-signature-256', 'webhook-id', 'webhook-timestamp', 'webhook-signature')
      group by 1
      having count(*) = 1
    ) as g);

  if body is null then
    reason := 'there is no body';
    return;
  end if;
  if scheme = 'x-hub-signature-256' then
    reason := case
      when coalesce(v_given ->> 'x-hub-signature-256', '') = '' then 'x-hub-signature-256 is missing, or there twice'
      when v_given ->> 'x-hub-signature-256' not like 'sha256=%' then 'x-hub-signature-256 does not begin with sha256='
      when length(v_given ->> 'x-hub-signature-256') <> 71 then 'x-hub-signature-256 is not 64 hexadecimal digits long'
      when v_given ->> 'x-hub-signature-256' !~ '^sha256=[0-9a-fA-F]{64}$' then 'x-hub-signature-256 is not hexadecimal'
    end;
    v_signatures := array[lower(v_given ->> 'x-hub-signature-256')];
  else
    reason := case
      when coalesce(v_given ->> 'webhook-id', '') = '' then 'webhook-id is missing, or there twice'
      when coalesce(v_given ->> 'webhook-timestamp', '') = '' then 'webhook-timestamp is missing, or there twice'
      when v_given ->> 'webhook-timestamp' !~ '^[0-9]{1,11}$' then 'webhook-timestamp is not in seconds'
      when coalesce(v_given ->> 'webhook-signature', '') = '' then 'webhook-signature is missing, or there twice'
      when ' ' || (v_given ->> 'webhook-signature') not like '% v1,%' then 'webhook-signature has no signature of version v1'
    end;
    if reason is null then
      v_at := to_timestamp((v_given ->> 'webhook-timestamp')::bigint);
      reason := case
        when v_at < dlq._now() - v_tolerance then 'webhook-timestamp is too old'
        when v_at > dlq._now() + v_tolerance then 'webhook-timestamp is in the future'
      end;
    end if;
    -- A sender may give as many as it likes; nobody needs more than these.
    v_signatures := (string_to_array(v_given ->> 'webhook-signature', ' '))[1:16];
    v_signed := convert_to(format('%s.%s.', v_given ->> 'webhook-id', v_given ->> 'webhook-timestamp'), 'UTF8') || body;
  end if;
  if reason is not null then
    return;
  end if;

  is_valid := (
    select coalesce(bool_or(
      sha256(v_salt || convert_to(g.signature, 'UTF8')) = sha256(v_salt || convert_to(m.signature, 'UTF8'))), false)
    from unnest(v_signatures) as g (signature)
      cross join (
        select case scheme
          when 'x-hub-signature-256' then 'sha256=' || encode(s.mac, 'hex')
          else 'v1,' || translate(encode(s.mac, 'base64'), E'\n', '')
        end as signature
        from (select dlq._hmac_sha256(k.pads, v_signed) as mac from unnest(v_keys) as k (pads)) as s
      ) as m);
  if not is_valid then
    reason := 'the signature is not one of this body under any of the secrets';
  end if;
end
$$;

comment on function dlq.verify_signature(bytea, jsonb, text[], text, interval) is
$$Whether a webhook's signature is right, and if not, why. body: the bytes as they came; headers: one JSON object, names in any
case; scheme: x-hub-signature-256 or standard-webhooks. WD005: a secret is missing, or not of the scheme's form.$$;
