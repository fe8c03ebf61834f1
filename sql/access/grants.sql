-- Who may do what. Everything is taken from PUBLIC and from our own roles, and what is meant is given again; what
-- somebody has granted to roles of their own stays. dlq_admin: everything a person does; dlq_reader: everything but
-- payloads, phone numbers, headers, error texts and replies; dlq_writer: storing, not reading.
do $$
declare
  v_object text;
begin
  for v_object in
    select 'schema dlq'
    union all
    select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from pg_class as c
    where c.relowner = 'dlq_owner'::regrole
      and c.relnamespace in ('dlq'::regnamespace, 'public'::regnamespace)
      and c.relkind in ('r', 'v', 'S')
    union all
    select format('routine %s', p.oid::regprocedure)
    from pg_proc as p
    where p.proowner = 'dlq_owner'::regrole and p.pronamespace in ('dlq'::regnamespace, 'public'::regnamespace)
  loop
    execute format('revoke all privileges on %s from public, dlq_admin, dlq_reader, dlq_writer, dlq_net_worker', v_object);
  end loop;
end
$$;

grant usage on schema dlq to dlq_admin, dlq_reader, dlq_writer;

grant select, insert, update, delete on public.webhook_dlq to dlq_admin;
grant select on public.dlq_processing_log, dlq.in_flight, dlq.delivery_attempts, dlq.endpoint_state to dlq_admin;
grant select, insert, update, delete on dlq.endpoints to dlq_admin;
grant select, update on dlq.settings to dlq_admin;

grant select
  (id, service, status, retry_count, attempt_count, unanswered_count, created_at, next_retry_at, last_retry_at,
   settled_at, updated_at, duplicate_of, correlation_id)
  on public.webhook_dlq to dlq_reader;
grant select on public.dlq_processing_log, dlq.in_flight, dlq.endpoint_state, dlq.settings to dlq_reader;
grant select
  (entry_id, dispatched_at, settled_at, request_id, attempt, status_code, outcome, service)
  on dlq.delivery_attempts to dlq_reader;
grant select
  (created_at, updated_at, timeout_ms, max_in_flight, enabled, allow_http, service, url, retry_schedule)
  on dlq.endpoints to dlq_reader;
grant select on dlq.entries, dlq.backlog, dlq.health to dlq_admin, dlq_reader;

grant insert (service, payload, raw_body, headers, phone_number, error_message, idempotency_key, correlation_id)
  on public.webhook_dlq to dlq_writer;
grant execute on function public.store_dlq_entry(text, jsonb, text, text, bytea, jsonb, text, text) to dlq_admin, dlq_writer;

grant execute on function public.dlq_health() to dlq_admin, dlq_reader;
-- The views call these with the rights of whoever reads them.
grant execute on function dlq._now(), dlq._why_not_sending(), dlq._is_paused(text)
  to dlq_admin, dlq_reader;
grant execute on function dlq._jobs(), dlq._to_interval(text), dlq.cron_checks() to dlq_admin, dlq_reader;

grant execute on function public.process_dlq_entries() to dlq_admin;
grant execute on procedure dlq.run_cycle() to dlq_admin;
grant execute on function
  dlq._cycle_budget(), dlq._begin_run(), dlq._step(bigint, text), dlq._next_pass(bigint, integer, interval)
  to dlq_admin;
grant execute on function
  dlq.pause(text, text, timestamptz), dlq.resume(text),
  dlq.set_endpoint(text, text, boolean, integer, integer, jsonb, interval[], boolean), dlq.remove_endpoint(text),
  dlq.schedule_jobs(), dlq.unschedule_jobs()
  to dlq_admin;
