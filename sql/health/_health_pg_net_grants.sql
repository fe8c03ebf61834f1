-- Whoever can read the queue reads what is sent; whoever can write there can make us believe an answer that nobody gave.
-- Not everywhere can it be ended, so it is a warning only while a secret lies open there that a signature could replace.
create or replace view dlq._health_pg_net_grants
as
select
  'pg_net grants' as name,
  case when g.rights is not null and (
    exists (select from dlq.endpoints as e where e.auth_secret is not null)
    or exists (select from dlq.alert_channels as c where c.kind <> 'webhook' or c.url like '%{secret}%')) then 'warning' else 'ok' end as level,
  case when g.rights is null then 'PUBLIC has no right on its tables'
    else format('PUBLIC may %s on its tables: it can read every request, with its secrets, and forge an answer', g.rights) end as detail,
  case when g.rights is not null then
    'as a superuser, where one may: revoke all on all tables in schema net from public; '
    || 'revoke all on all sequences in schema net from public; then dlqctl migrate; see docs/access.md' end as remediation
from (
  select string_agg(distinct lower(a.privilege_type), ', ') as rights
  from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    cross join lateral aclexplode(c.relacl) as a
  where n.nspname = 'net' and c.relname in ('http_request_queue', '_http_response') and a.grantee = 0
    and has_schema_privilege('public', n.oid, 'usage')
) as g;

comment on view dlq._health_pg_net_grants is
'Check: whether PUBLIC may read or write pg_net''s tables. A warning while a secret is sent through them.';
