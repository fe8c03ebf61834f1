-- Who may do what. dlq_admin: everything a person does; dlq_reader: everything but payloads, phone numbers, headers,
-- error texts and replies; dlq_writer: storing, not reading.
select dlq._revoke_everything('{dlq,public}');

grant usage on schema dlq to dlq_admin, dlq_reader, dlq_writer;

grant select, insert, update, delete on public.webhook_dlq to dlq_admin;
grant select
  on public.dlq_processing_log, dlq.in_flight, dlq.delivery_attempts, dlq.attempt_counts, dlq.pauses, dlq.endpoint_state, dlq.net_workers
  to dlq_admin;
grant select on dlq.amendments, dlq.audit_log, dlq.maintenance_log to dlq_admin;
grant select on dlq.replays, dlq.replayed_entries, dlq.replay_progress to dlq_admin;
grant select, insert, update, delete on dlq.endpoints to dlq_admin;
grant select, update on dlq.settings, dlq.alert_rules to dlq_admin;
grant select, insert, update, delete on dlq.alert_channels to dlq_admin;
grant select on dlq.alerts, dlq.alert_deliveries, dlq.alert_requests to dlq_admin;
grant select on dlq.alert_silences, dlq.alert_evaluation, dlq.alert_states, dlq.alert_channel_states to dlq_admin, dlq_reader;
grant select on dlq.alert_rules, dlq.alerts, dlq.alert_requests to dlq_reader;

grant select
  (id, service, status, retry_count, attempt_count, unanswered_count, created_at, next_retry_at, last_retry_at,
   settled_at, erased_at, updated_at, duplicate_of, correlation_id)
  on public.webhook_dlq to dlq_reader;
grant select
  on public.dlq_processing_log, dlq.attempt_counts, dlq.pauses, dlq.endpoint_state, dlq.net_workers, dlq.maintenance_log, dlq.settings
  to dlq_reader;
grant select  -- without the digest: it would tell whether a payload is the one that somebody guesses
  (entry_id, request_id, dispatched_at, missing_since, net_oid, attempt, timeout_ms, echoed, is_probe, service)
  on dlq.in_flight to dlq_reader;
grant select
  (entry_id, dispatched_at, settled_at, request_id, attempt, status_code, is_probe, outcome, service)
  on dlq.delivery_attempts to dlq_reader;
grant select (entry_id, amended_at, amended_by, reason) on dlq.amendments to dlq_reader;
grant select
  (created_at, updated_at, timeout_ms, max_in_flight, enabled, allow_http, allow_private, service, url, health_url, host, retry_schedule,
   signing, secret_names, auth, auth_secret, body)
  on dlq.endpoints to dlq_reader;
grant select  -- without the url: whoever knows that of a chat's webhook may write there
  (created_at, updated_at, enabled, allow_http, allow_private, name, kind, host, secret, severities)
  on dlq.alert_channels to dlq_reader;
grant select
  (created_at, next_try_at, sent_at, settled_at, alert_id, edge, attempts, status_code, rule, channel, event, status)
  on dlq.alert_deliveries to dlq_reader;
grant select on
  dlq.entries, dlq.activity, dlq.health, dlq.backlog, dlq.upcoming, dlq.circuits, dlq.success_rate, dlq.top_failures, dlq.slowest_endpoints,
  dlq.cron_status, dlq.net_status, dlq.net_queue, dlq.table_sizes, dlq.index_sizes, dlq.metrics
  to dlq_admin, dlq_reader;
-- These read with their caller's rights: what a reader may not see, they do not show.
grant execute on function
  dlq.find_entry(text), dlq.story(uuid, boolean), dlq._words_of(uuid, integer), dlq._acts_on(uuid), dlq.what_next(uuid)
  to dlq_admin, dlq_reader;

grant insert (service, payload, raw_body, headers, phone_number, error_message, idempotency_key, correlation_id)
  on public.webhook_dlq to dlq_writer;
grant execute on function
  public.store_dlq_entry(text, jsonb, text, text, bytea, jsonb, text, text), public.store_dlq_entries(jsonb[])
  to dlq_admin, dlq_writer;

grant execute on function public.dlq_health() to dlq_admin, dlq_reader;
-- The views call these with the rights of whoever reads them.
grant execute on function
  dlq._now(), dlq._why_not_sending(), dlq._is_paused(text), dlq._missing_secret(text), dlq._missing_key(text), dlq._a_few(text[], text),
  dlq._hidden_tables(), dlq._error_in_short(text),
  dlq._metrics(), dlq._cron_status(), dlq._net_queue()
  to dlq_admin, dlq_reader;
grant execute on function
  dlq._jobs(), dlq._to_interval(text), dlq._cron_facts(), dlq._our_jobs(jsonb), dlq._wrong_jobs(jsonb), dlq._may_run_jobs(oid), dlq.cron_checks(jsonb)
  to dlq_admin, dlq_reader;

grant execute on function public.process_dlq_entries() to dlq_admin;
grant execute on procedure dlq.run_cycle() to dlq_admin;
grant execute on function
  dlq._cycle_budget(), dlq._begin_run(), dlq._step(bigint, text, jsonb), dlq._next_pass(bigint, integer, interval)
  to dlq_admin;
grant execute on procedure dlq.maintain() to dlq_admin;
grant execute on function
  dlq._begin_maintenance(), dlq._maintain_step(bigint, text, timestamptz), dlq._remove_cron_runs(), dlq._end_maintenance(bigint, integer)
  to dlq_admin;
grant execute on function
  dlq.evaluate_alerts(), dlq.deliver_alerts(), dlq.silence(text, timestamptz, text), dlq.unsilence(text, text),
  dlq.set_alert_rule(text, text, interval, interval, text, text, boolean, text),
  dlq.set_alert_channel(text, text, text, text, text[], boolean, boolean, boolean), dlq.remove_alert_channel(text),
  dlq.test_alert_channel(text)
  to dlq_admin;
grant execute on function
  dlq.pause(text, text, timestamptz), dlq.resume(text, text), dlq.reset_endpoint(text, text),
  dlq.retry(uuid, text), dlq.redeliver(uuid, text), dlq.discard(uuid, text), dlq.amend(uuid, jsonb, text), dlq.erase(text, text),
  dlq.preview_replay(text, text, timestamptz, timestamptz, integer, text, text, integer, integer),
  dlq.replay(text, text, text, timestamptz, timestamptz, integer, text, text, integer, integer, integer),
  dlq.continue_replay(bigint, integer), dlq.cancel_replay(bigint, text, integer),
  dlq.set_endpoint(text, text, boolean, boolean, integer, integer, jsonb, interval[], boolean, text, text[], text, text, text, text), dlq.remove_endpoint(text),
  dlq.set_secret(text, text), dlq.remove_secret(text), dlq.list_secrets(),
  dlq.schedule_jobs(), dlq.unschedule_jobs()
  to dlq_admin;
-- What dlqctl's own questions need.
grant execute on function dlq._route(text), dlq.sign_probes(text) to dlq_admin;
grant execute on function dlq.receive_webhook(text, bytea, jsonb, text, text), public.receive_webhook(bytea)
  to dlq_admin, dlq_writer;
-- Not for those who store: it takes any secret's name, so it tells which there are, and judges what somebody guesses.
grant execute on function dlq.verify_signature(bytea, jsonb, text[], text, interval) to dlq_admin;

-- Its heartbeat, and whether it may send from here. What it needs of the queue itself: sql/net/grants.sql.
grant usage on schema dlq to dlq_net_worker;
grant select, insert, update, delete on dlq.net_workers to dlq_net_worker;
grant execute on function dlq._why_not_sending() to dlq_net_worker;
