-- Says where a service's webhooks are retried. The row * is the template for services that have none of their own.
-- What is null stays as it is, or takes its default on a new row.
create or replace function dlq.set_endpoint(
  service text,
  url text,
  allow_http boolean default null,
  allow_private boolean default null,
  timeout_ms integer default null,
  max_in_flight integer default null,
  headers jsonb default null,
  retry_schedule interval[] default null,
  enabled boolean default null,
  signing text default null,
  secret_names text[] default null,
  auth text default null,
  auth_secret text default null,
  body text default null,
  health_url text default null
)
returns dlq.endpoints
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_endpoint dlq.endpoints;
  v_constraint text;
begin
  insert into dlq.endpoints as e
    (service, url, allow_http, allow_private, timeout_ms, max_in_flight, headers, retry_schedule, enabled,
     signing, secret_names, auth, auth_secret, body, health_url)
  select
    set_endpoint.service,
    set_endpoint.url,
    coalesce(set_endpoint.allow_http, o.allow_http, false),
    coalesce(set_endpoint.allow_private, o.allow_private, false),
    coalesce(set_endpoint.timeout_ms, o.timeout_ms, 5000),
    coalesce(set_endpoint.max_in_flight, o.max_in_flight, 20),
    coalesce(set_endpoint.headers, o.headers, '{}'),
    coalesce(set_endpoint.retry_schedule, o.retry_schedule),
    coalesce(set_endpoint.enabled, o.enabled, true),
    nullif(coalesce(set_endpoint.signing, o.signing), 'none'),
    case when set_endpoint.signing is distinct from 'none' then coalesce(set_endpoint.secret_names, o.secret_names) end,
    nullif(coalesce(set_endpoint.auth, o.auth), 'none'),
    case when set_endpoint.auth is distinct from 'none' then coalesce(set_endpoint.auth_secret, o.auth_secret) end,
    coalesce(set_endpoint.body, o.body, 'json'),
    nullif(coalesce(set_endpoint.health_url, o.health_url), 'none')
  from (select) as one
    left join dlq.endpoints as o on o.service = set_endpoint.service
  on conflict on constraint endpoints_pkey do update
  set  -- by what the row is now: somebody else may have changed it since it was read above
    url = excluded.url,
    allow_http = coalesce(set_endpoint.allow_http, e.allow_http),
    allow_private = coalesce(set_endpoint.allow_private, e.allow_private),
    timeout_ms = coalesce(set_endpoint.timeout_ms, e.timeout_ms),
    max_in_flight = coalesce(set_endpoint.max_in_flight, e.max_in_flight),
    headers = coalesce(set_endpoint.headers, e.headers),
    retry_schedule = coalesce(set_endpoint.retry_schedule, e.retry_schedule),
    enabled = coalesce(set_endpoint.enabled, e.enabled),
    signing = nullif(coalesce(set_endpoint.signing, e.signing), 'none'),
    secret_names = case when set_endpoint.signing is distinct from 'none' then coalesce(set_endpoint.secret_names, e.secret_names) end,
    auth = nullif(coalesce(set_endpoint.auth, e.auth), 'none'),
    auth_secret = case when set_endpoint.auth is distinct from 'none' then coalesce(set_endpoint.auth_secret, e.auth_secret) end,
    body = coalesce(set_endpoint.body, e.body),
    health_url = nullif(coalesce(set_endpoint.health_url, e.health_url), 'none'),
    updated_at = now()
  returning e.* into v_endpoint;
  return v_endpoint;
exception when check_violation or not_null_violation then
  get stacked diagnostics v_constraint = constraint_name;
  raise exception using
    errcode = 'WD002',
    message = format('the endpoint of %s is not in order: %s',
      coalesce(set_endpoint.service, 'null'), coalesce(nullif(replace(v_constraint, '_', ' '), ''), 'service and url are needed')),
    detail = 'Nothing was changed.',
    hint = coalesce(
      (select obj_description(c.oid, 'pg_constraint')
       from pg_constraint as c
       where c.conrelid = 'dlq.endpoints'::regclass and c.conname = v_constraint),
      'Give a service and a url.');
end
$$;

comment on function dlq.set_endpoint(text, text, boolean, boolean, integer, integer, jsonb, interval[], boolean, text, text[], text, text, text, text) is
$$Says where a service's webhooks are retried (* for all that have none of their own), and returns the endpoint.
What is null stays as it is; signing, auth and health_url end by saying none. WD002: something is not in order; the hint says what.$$;
