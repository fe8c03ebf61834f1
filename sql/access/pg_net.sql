-- What dlq_owner needs of the real pg_net and has not, where PUBLIC does not have it (older versions, or after a REVOKE).
-- One row a statement, and whether the connected role may run it: as in roles.sql.
-- A role that is not there yet will have what PUBLIC has, which is the role 0.
with
owner as (
  select coalesce(to_regrole('dlq_owner')::oid, 0) as oid
),
queue as (
  select pg_get_serial_sequence('net.http_request_queue', 'id') as ids
),
needed (statement, is_there, may_run) as (
  select 'grant usage on schema net to dlq_owner',
    has_schema_privilege(o.oid, 'net', 'usage'), has_schema_privilege('net', 'usage with grant option')
  from owner as o
  union all
  select 'grant execute on function net.http_post(text, jsonb, jsonb, jsonb, integer) to dlq_owner',
    has_function_privilege(o.oid, 'net.http_post(text, jsonb, jsonb, jsonb, integer)', 'execute'),
    has_function_privilege('net.http_post(text, jsonb, jsonb, jsonb, integer)', 'execute with grant option')
  from owner as o
  union all
  select 'grant select, insert on net.http_request_queue to dlq_owner',
    has_table_privilege(o.oid, 'net.http_request_queue', 'select')
      and has_table_privilege(o.oid, 'net.http_request_queue', 'insert'),
    has_table_privilege('net.http_request_queue', 'select with grant option')
      and has_table_privilege('net.http_request_queue', 'insert with grant option')
  from owner as o
  union all
  select format('grant usage on sequence %s to dlq_owner', q.ids),
    has_sequence_privilege(o.oid, q.ids, 'usage'), has_sequence_privilege(q.ids, 'usage with grant option')
  from owner as o, queue as q
  union all
  select 'grant select on net._http_response to dlq_owner',
    has_table_privilege(o.oid, 'net._http_response', 'select'),
    has_table_privilege('net._http_response', 'select with grant option')
  from owner as o
)
select n.statement, n.may_run
from needed as n
where not n.is_there
