-- The keys of a scheme, as pads, in the order of their secrets' names. x-hub-signature-256 (Meta, GitHub): the secret's own
-- bytes. Standard Webhooks: what is behind whsec_, in base64. Raises WD005 if a secret is missing or has not that form.
create or replace function dlq._signing_keys(scheme text, secret_names text[])
returns bytea[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys bytea[] := '{}';
  v_name text;
  v_secret text;
begin
  foreach v_name in array coalesce(secret_names, '{}') loop
    v_secret := dlq._secret(v_name);
    if scheme = 'standard-webhooks' then
      if v_secret !~ '^whsec_([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$' or length(v_secret) < 10 then
        raise exception using
          errcode = 'WD005',
          message = format('the secret %s has not the form of Standard Webhooks', v_name),
          hint = 'It is whsec_ and then the key in base64, of whatever length.';
      end if;
      v_keys := v_keys || dlq._hmac_pads(decode(substr(v_secret, 7), 'base64'));
    else
      v_keys := v_keys || dlq._hmac_pads(convert_to(v_secret, 'UTF8'));
    end if;
  end loop;
  return v_keys;
end
$$;

comment on function dlq._signing_keys(text, text[]) is
'The keys of a scheme, as dlq._hmac_pads() makes them. WD005: a secret is missing, or has not the scheme''s form.';
