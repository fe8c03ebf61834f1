-- How long a service's entries wait for their first retry, without jitter. In PL/pgSQL, and so planned once.
create or replace function dlq._first_wait(service text)
returns interval
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select (coalesce(r.retry_schedule, s.retry_schedule))[1]
    from dlq.settings as s
      left join lateral dlq._route(_first_wait.service) as r on true);
end
$$;

comment on function dlq._first_wait(text) is 'How long a service''s entries wait for their first retry: by its endpoint, the template, or the settings.';
