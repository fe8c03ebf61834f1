-- What `dlqctl verify-signatures` makes its probes of: marked bodies, rightly signed by the scheme and secrets of a service's
-- endpoint. The secrets stay here, and the caller chooses nothing of what is signed: each body says that it is a probe, and its
-- id is new. So this is no way to have a webhook of one's own signed; who may set an endpoint has such a way anyway.
-- compact and spaced are two spellings of JSON, and stale is an hour old (Standard Webhooks alone signs a time).
-- Raises WD004 on a copy of production, WD005 if a secret is missing, WD006 if nothing says how the service signs.
create or replace function dlq.sign_probes(service text)
returns table (variant text, body bytea, signature jsonb)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_route record;
  v_keys bytea[];
begin
  if not dlq._is_production() then
    raise exception using
      errcode = 'WD004',
      message = 'this is a copy of another database: nobody is called from here',
      hint = 'If it is production now: dlqctl migrate --this-is-production';
  end if;
  select r.signing, r.secret_names into v_route from dlq._route(sign_probes.service) as r;
  if v_route.signing is null then
    raise exception using
      errcode = 'WD006',
      message = format('nothing says how webhooks of %s are signed', coalesce(quote_literal(sign_probes.service), 'null')),
      hint = 'For example: dlqctl endpoints set SERVICE URL --signing x-hub-signature-256 --secret WHATSAPP_APP_SECRET';
  end if;
  v_keys := dlq._signing_keys(v_route.signing, v_route.secret_names);
  return query
  select p.variant, p.body, dlq._sign(v_route.signing, v_keys, p.id, clock_timestamp() - p.age, p.body)
  from (
    select v.variant, v.age, v.id, convert_to(format(v.form, v.id), 'UTF8') as body
    from (values
      ('compact', interval '0', 'dlqctl-probe-' || gen_random_uuid(), '{"dlqctl":"probe","id":"%s"}'),
      ('spaced', interval '0', 'dlqctl-probe-' || gen_random_uuid(), '{"dlqctl": "probe", "id": "%s"}'),
      ('stale', interval '1 hour', 'dlqctl-probe-' || gen_random_uuid(), '{"dlqctl":"probe","id":"%s"}')
    ) as v (variant, age, id, form)
  ) as p;
end
$$;

comment on function dlq.sign_probes(text) is
$$Marked bodies, rightly signed as a service's webhooks are: what dlqctl verify-signatures makes its probes of.
WD004: this is a copy. WD005: a secret is missing. WD006: nothing says how the service signs.$$;
