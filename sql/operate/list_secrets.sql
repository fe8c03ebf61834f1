-- The secrets that endpoints and channels of alerts name and those that are kept here, never their values: whether each is there, and who needs it.
create or replace function dlq.list_secrets()
returns table (name text, is_there boolean, used_by text[])
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
with used as (
  select u.name, array_agg(distinct u.used_by order by u.used_by) as used_by
  from (
    select n.name, e.service as used_by
    from dlq.endpoints as e
      cross join unnest(e.secret_names || e.auth_secret) as n (name)
    union all
    select c.secret, 'alerts: ' || c.name
    from dlq.alert_channels as c
  ) as u
  where u.name is not null
  group by u.name
)
select coalesce(u.name, s.name), dlq._has_secret(coalesce(u.name, s.name)), coalesce(u.used_by, '{}')
from used as u
  full join dlq.secrets as s on s.name = u.name
order by 1
$$;

comment on function dlq.list_secrets() is
$$The secrets that endpoints or channels of alerts name or that dlq.secrets keeps: whether each is there, and who uses it, a channel
as "alerts: NAME". No values.$$;
