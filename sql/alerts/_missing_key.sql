-- What is wrong with the secret that a channel of alerts names, in words; null if nothing is. As dlq._missing_secret() it tells of no
-- name but one that is in use.
create or replace function dlq._missing_key(channel text)
returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform case
    when c.kind = 'webhook' and c.url not like '%{secret}%' then dlq._signing_keys('standard-webhooks', array[c.secret]) is null
    else dlq._secret(c.secret) is null
  end
  from dlq.alert_channels as c
  where c.name = _missing_key.channel and c.secret is not null;
  return null;
exception when sqlstate 'WD005' then
  return sqlerrm;
end
$$;

comment on function dlq._missing_key(text) is 'What is wrong with the secret that a channel of alerts names, in words. Null if nothing is.';
