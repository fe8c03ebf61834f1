-- Removes a service's endpoint. Its entries then follow the template *, or wait if there is none.
create or replace function dlq.remove_endpoint(service text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  delete from dlq.endpoints as e where e.service = remove_endpoint.service;
  return found;
end
$$;

comment on function dlq.remove_endpoint(text) is 'Removes a service''s endpoint. False if there was none. Its entries then follow the template, or wait.';
