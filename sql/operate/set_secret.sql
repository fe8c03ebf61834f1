-- Keeps a secret under a name, in Supabase's Vault where dlq_owner may use it, else in dlq.secrets. An earlier value is gone.
-- While old and new are both valid, keep them under two names and give an endpoint both.
create or replace function dlq.set_secret(name text, value text)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_id uuid;
begin
  if coalesce(set_secret.value, '') = '' or set_secret.name is null or set_secret.name !~ '^[A-Za-z_][A-Za-z0-9_.-]{0,127}$' then
    raise exception using
      errcode = 'WD002',
      message = 'a secret needs a name and a value',
      detail = 'Nothing was changed.',
      hint = 'name: a letter or _, then letters, digits, _, . and -, for example WHATSAPP_APP_SECRET.';
  end if;

  if dlq._has_vault() then
    execute format('select s.id from %I.decrypted_secrets as s where s.name = $1', 'vault') into v_id using set_secret.name;
    -- No execute here: what it is given with using, auto_explain logs.
    if v_id is null then
      perform vault.create_secret(set_secret.value, set_secret.name);
    else
      perform vault.update_secret(v_id, set_secret.value);
    end if;
    delete from dlq.secrets as s where s.name = set_secret.name;
    perform dlq._audit('set_secret', 'vault.secrets', set_secret.name);
    return;
  end if;

  insert into dlq.secrets as s (name, value)
  values (set_secret.name, set_secret.value)
  on conflict on constraint secrets_pkey do update set value = excluded.value, updated_at = now();
end
$$;

comment on function dlq.set_secret(text, text) is
'Keeps a secret under a name, in Vault or in dlq.secrets. WD002: no value, or not a name.';
