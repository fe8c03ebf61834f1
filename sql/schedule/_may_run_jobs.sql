-- Whether a role may run what our jobs call.
create or replace function dlq._may_run_jobs(role oid)
returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
select has_schema_privilege(role, 'dlq', 'usage')
  and has_function_privilege(role, 'dlq.run_cycle()', 'execute')
  and has_function_privilege(role, 'dlq.maintain()', 'execute')
  and has_function_privilege(role, 'dlq.evaluate_alerts()', 'execute')
$$;

comment on function dlq._may_run_jobs(oid) is 'Whether a role may call dlq.run_cycle(), dlq.maintain() and dlq.evaluate_alerts().';
