-- What must be there before anything else, and is not: the roles, the schema, and what dlq_owner needs to own things.
-- One row a statement, in the order in which to run them, and whether the connected role may run it. migrate runs
-- them all, or names those that somebody else has to run, and changes nothing.
-- Roles belong to the whole server: another database may have made them already. Up to 15, CREATEROLE is enough to grant
-- any role; from 16 on, it takes ADMIN on that role, which whoever created it has, and SET is granted apart from membership.
with
me as (
  select r.oid, r.rolname, r.rolsuper, r.rolcreaterole, r.rolinherit,
    current_setting('server_version_num')::integer >= 160000 as is_strict
  from pg_roles as r
  where r.rolname = current_user
),
ours as (
  select o.name, o.nth, r.oid
  from unnest('{dlq_owner,dlq_admin,dlq_reader,dlq_writer,dlq_net_worker}'::name[]) with ordinality as o (name, nth)
    left join pg_roles as r on r.rolname = o.name
),
grantable as (
  select
    o.*,
    me.rolsuper
      or case when o.oid is null or not me.is_strict then me.rolcreaterole else false end
      or coalesce(pg_has_role(me.oid, o.oid, 'member with admin option'), false) as may_grant
  from ours as o, me
),
missing (nth, statement, may_run) as (
  select o.nth, format('create role %I nologin', o.name), me.rolsuper or me.rolcreaterole
  from ours as o, me
  where o.oid is null
  union all
  -- Up to 15 this is a matter of the role, not of each membership, and not for us to change.
  select 9, format('alter role %I inherit', me.rolname), false
  from me
  where not me.is_strict and not me.rolsuper and not me.rolinherit
  union all
  -- Whoever installs becomes the owner for a moment, by set role; and the cron job runs in the name of whoever installs.
  select 10 + o.nth, format('grant %I to %I', o.name, me.rolname) || case when me.is_strict then n.options else '' end,
    o.may_grant
  from grantable as o
    join (values ('dlq_owner', 'set', ' with set true, inherit true'), ('dlq_admin', 'usage', ' with inherit true'))
      as n (name, needed, options) on n.name = o.name
    cross join me
  where not me.rolsuper
    and not coalesce(pg_has_role(me.oid, o.oid, case when me.is_strict then n.needed else 'member' end), false)
  union all
  select 20, 'create schema dlq authorization dlq_owner', has_database_privilege(me.oid, current_database(), 'create')
  from me
  where to_regnamespace('dlq') is null
  union all
  -- A role that is not there yet will have what PUBLIC has, which is the role 0.
  select 21, 'grant usage, create on schema public to dlq_owner',
    has_schema_privilege(me.oid, 'public', 'usage with grant option')
      and has_schema_privilege(me.oid, 'public', 'create with grant option')
  from ours as o, me
  where o.name = 'dlq_owner'
    and not (has_schema_privilege(coalesce(o.oid, 0), 'public', 'usage')
      and has_schema_privilege(coalesce(o.oid, 0), 'public', 'create'))
  union all
  select 22, format('grant temporary on database %I to dlq_owner', current_database()),
    has_database_privilege(me.oid, current_database(), 'temporary with grant option')
  from ours as o, me
  where o.name = 'dlq_owner'
    and not has_database_privilege(coalesce(o.oid, 0), current_database(), 'temporary')
)
select m.statement, m.may_run
from missing as m
order by m.nth
