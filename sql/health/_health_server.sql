-- Which server answers. A standby says that it is one: what it has replayed may be behind.
create or replace view dlq._health_server
as
select
  'server' as name,
  case when pg_is_in_recovery() then 'warning' else 'ok' end as level,
  case when pg_is_in_recovery() then 'this is a standby: what it says may be behind, and nothing is sent from here'
    else format('PostgreSQL %s, the primary', current_setting('server_version')) end as detail,
  case when pg_is_in_recovery() then 'ask the primary' end as remediation;

comment on view dlq._health_server is
'Check: which server answers. A warning on a standby.';
