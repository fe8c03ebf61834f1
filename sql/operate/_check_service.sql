-- Raises WD002 if this is not null and cannot be the name of a service.
create or replace function dlq._check_service(service text)
returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  if service !~ '^[a-z0-9][a-z0-9_-]{0,62}$' then
    raise exception using
      errcode = 'WD002',
      message = format('%L cannot be a service''s name', service),
      hint = 'Use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or a digit, for example ''whatsapp''.';
  end if;
end
$$;

comment on function dlq._check_service(text) is 'Raises WD002 if the text is not null and cannot be a service''s name.';
