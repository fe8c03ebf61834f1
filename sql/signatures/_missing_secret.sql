-- What is wrong with the secrets that a service's endpoint names, in words; null if nothing is. While one is missing its
-- entries wait, and use up no retries: see dlq._claim().
create or replace function dlq._missing_secret(service text)
returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_route record;
begin
  select r.* into v_route from dlq._route(_missing_secret.service) as r;
  if v_route.signing is not null then
    perform dlq._signing_keys(v_route.signing, v_route.secret_names);
  end if;
  if v_route.auth_secret is not null then
    -- A line break would begin another header.
    if dlq._secret(v_route.auth_secret) ~ '[\x01-\x1f\x7f]' then
      return format('the secret %s cannot be sent in a header: it has a line break or the like', v_route.auth_secret);
    end if;
  end if;
  return null;
exception when sqlstate 'WD005' then
  return sqlerrm;
end
$$;

comment on function dlq._missing_secret(text) is
'What is wrong with the secrets that a service''s endpoint names, in words. Null if they are all there.';
