-- Forgets a secret of dlq.secrets. Endpoints that name it then wait. What Vault keeps, Vault forgets: delete from vault.secrets.
create or replace function dlq.remove_secret(name text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  delete from dlq.secrets as s where s.name = remove_secret.name;
  return found;
end
$$;

comment on function dlq.remove_secret(text) is 'Forgets a secret of dlq.secrets. False if there was none.';
