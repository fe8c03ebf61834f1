-- The value of a secret: Supabase's Vault has the first word where there is one, then dlq.secrets. Raises WD005 if neither
-- has it: to sign with nothing, or to send "Bearer " and nothing, would look like somebody else's fault.
create or replace function dlq._secret(name text)
returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_value text;
begin
  if dlq._has_vault() then
    execute format('select s.decrypted_secret from %I.decrypted_secrets as s where s.name = $1', 'vault')
    into v_value
    using _secret.name;
  end if;
  v_value := coalesce(nullif(v_value, ''), (select s.value from dlq.secrets as s where s.name = _secret.name));
  if v_value is null then
    raise exception using
      errcode = 'WD005',
      message = format('there is no secret %s', _secret.name),
      hint = format('dlqctl secrets set %s', _secret.name);
  end if;
  return v_value;
end
$$;

comment on function dlq._secret(text) is 'The value of a secret, from Vault or dlq.secrets. WD005: there is none.';
