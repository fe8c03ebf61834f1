-- Whether there is a secret of that name.
create or replace function dlq._has_secret(name text)
returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return dlq._secret(name) is not null;
exception when sqlstate 'WD005' then
  return false;
end
$$;

comment on function dlq._has_secret(text) is 'Whether there is a secret of that name.';
