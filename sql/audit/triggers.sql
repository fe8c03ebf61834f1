-- The acts of people on our tables: who did what is written into dlq.audit_log by the same transaction, or neither is done.
--
-- What the queue itself never writes is recorded whoever writes it, also through a verb and by migrate. What it does write is
-- recorded when anybody else does: its functions run as dlq_owner, and whoever is that by set role shows in the setting role.
-- An insert into webhook_dlq is intake, and no act.
--
-- Row by row, and the condition is looked at before anything is queued, so that the queue's own work does not pay: 10,000
-- entries sent and settled took 2.2 s of CPU with these and without. (Transition tables are copied whatever the condition.) A person
-- pays 0.1 ms and 430 bytes a row, and each entry is found by its id. ALWAYS: also when session_replication_role is replica.

create or replace trigger audit
after insert or update or delete on dlq.endpoints
for each row execute function dlq._audit_change(
  'service', 'created_at', 'url', 'health_url', 'timeout_ms', 'max_in_flight', 'enabled', 'allow_http', 'allow_private', 'signing', 'secret_names',
  'auth', 'auth_secret', 'body', 'retry_schedule');
alter table dlq.endpoints enable always trigger audit;
comment on trigger audit on dlq.endpoints is 'Records who changes an endpoint. Its headers are shown as a digest.';

create or replace trigger audit_truncate
after truncate on dlq.endpoints
for each statement execute function dlq._audit_change();
alter table dlq.endpoints enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.endpoints is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.settings
for each row execute function dlq._audit_change(
  '', 'installed_at', 'system_identifier', 'database_oid', 'cycle_minutes', 'cycle_budget',
  'retry_schedule', 'probe_schedule', 'jitter', 'max_unanswered', 'max_in_flight', 'outage_patience', 'replay_window',
  'retain_settled', 'retain_failed', 'retain_runs', 'retain_audit', 'maintain_at', 'maintain_budget', 'endpoints_have_schedules');
alter table dlq.settings enable always trigger audit;
comment on trigger audit on dlq.settings is 'Records who changes a setting.';

create or replace trigger audit_truncate
after truncate on dlq.settings
for each statement execute function dlq._audit_change();
alter table dlq.settings enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.settings is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.secrets
for each row execute function dlq._audit_change('name', 'created_at');
alter table dlq.secrets enable always trigger audit;
comment on trigger audit on dlq.secrets is 'Records who changes a secret: its name alone.';

create or replace trigger audit_truncate
after truncate on dlq.secrets
for each statement execute function dlq._audit_change();
alter table dlq.secrets enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.secrets is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.audit_key
for each row execute function dlq._audit_change('');
alter table dlq.audit_key enable always trigger audit;
comment on trigger audit on dlq.audit_key is 'Records who changes the key of the digests: that it was, and nothing of it.';

create or replace trigger audit_truncate
after truncate on dlq.audit_key
for each statement execute function dlq._audit_change();
alter table dlq.audit_key enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.audit_key is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.pauses
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change('service', 'paused_at', 'paused_until', 'paused_by', 'reason');
alter table dlq.pauses enable always trigger audit;
comment on trigger audit on dlq.pauses is 'Records who pauses or resumes by hand. The verbs do so themselves, with the reason.';

create or replace trigger audit_truncate
after truncate on dlq.pauses
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.pauses enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.pauses is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.endpoint_state
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'service', 'cap', 'trips', 'failing_since', 'probe_at', 'cap_changed_at', 'timed_out_at', 'trouble', 'suspects');
alter table dlq.endpoint_state enable always trigger audit;
comment on trigger audit on dlq.endpoint_state is 'Records who moves a circuit breaker by hand.';

create or replace trigger audit_truncate
after truncate on dlq.endpoint_state
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.endpoint_state enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.endpoint_state is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.in_flight
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'entry_id', 'service', 'request_id', 'attempt', 'dispatched_at', 'missing_since', 'net_oid', 'timeout_ms',
  'echoed', 'is_probe');
alter table dlq.in_flight enable always trigger audit;
comment on trigger audit on dlq.in_flight is 'Records who meddles with the requests in flight.';

create or replace trigger audit_truncate
after truncate on dlq.in_flight
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.in_flight enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.in_flight is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.delivery_attempts
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'entry_id', 'service', 'attempt', 'outcome', 'status_code', 'is_probe', 'request_id', 'dispatched_at', 'settled_at');
alter table dlq.delivery_attempts enable always trigger audit;
comment on trigger audit on dlq.delivery_attempts is 'Records who rewrites the history of attempts.';

create or replace trigger audit_truncate
after truncate on dlq.delivery_attempts
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.delivery_attempts enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.delivery_attempts is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.attempt_counts
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'hour', 'service', 'outcome', 'status_code', 'attempts', 'timeouts', 'seconds', 'seconds_max');
alter table dlq.attempt_counts enable always trigger audit;
comment on trigger audit on dlq.attempt_counts is 'Records who changes how many attempts there were.';

create or replace trigger audit_truncate
after truncate on dlq.attempt_counts
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.attempt_counts enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.attempt_counts is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.amendments
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change('entry_id', 'amended_at', 'amended_by', 'reason');
alter table dlq.amendments enable always trigger audit;
comment on trigger audit on dlq.amendments is 'Records who rewrites the history of payloads.';

create or replace trigger audit_truncate
after truncate on dlq.amendments
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.amendments enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.amendments is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.replays
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'id', 'replayed_at', 'cancelled_at', 'last_created_at', 'last_entry_id', 'matched', 'entries', 'per_minute', 'replayed_by',
  'cancelled_by', 'reason');
alter table dlq.replays enable always trigger audit;
comment on trigger audit on dlq.replays is 'Records who rewrites the history of replays. The verbs record themselves, with the reason.';

create or replace trigger audit_truncate
after truncate on dlq.replays
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.replays enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.replays is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.replayed_entries
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'entry_id', 'replay_id', 'due_at', 'next_retry_at', 'settled_at', 'retry_count', 'unanswered_count', 'attempt_count',
  'put_back', 'status');
alter table dlq.replayed_entries enable always trigger audit;
comment on trigger audit on dlq.replayed_entries is 'Records who meddles with what a replay would put back.';

create or replace trigger audit_truncate
after truncate on dlq.replayed_entries
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.replayed_entries enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.replayed_entries is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on public.dlq_processing_log
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'id', 'processed_at', 'duration', 'status', 'entries_processed', 'entries_failed', 'dispatched', 'unanswered');
alter table public.dlq_processing_log enable always trigger audit;
comment on trigger audit on public.dlq_processing_log is 'Records who rewrites the history of runs.';

create or replace trigger audit_truncate
after truncate on public.dlq_processing_log
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table public.dlq_processing_log enable always trigger audit_truncate;
comment on trigger audit_truncate on public.dlq_processing_log is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.maintenance_log
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'id', 'began_at', 'duration', 'seen_up_to', 'entries', 'attempts', 'attempts_seen', 'runs', 'cron_runs', 'acts',
  'left_over', 'status');
alter table dlq.maintenance_log enable always trigger audit;
comment on trigger audit on dlq.maintenance_log is 'Records who rewrites the history of maintenance.';

create or replace trigger audit_truncate
after truncate on dlq.maintenance_log
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.maintenance_log enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.maintenance_log is 'Records who empties it.';

create or replace trigger audit
after update or delete on public.webhook_dlq
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'id', 'service', 'status', 'retry_count', 'attempt_count', 'unanswered_count', 'created_at', 'next_retry_at',
  'last_retry_at', 'settled_at', 'erased_at', 'duplicate_of', 'correlation_id');
alter table public.webhook_dlq enable always trigger audit;
comment on trigger audit on public.webhook_dlq is 'Records who changes or deletes an entry.';

create or replace trigger audit_truncate
after truncate on public.webhook_dlq
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table public.webhook_dlq enable always trigger audit_truncate;
comment on trigger audit_truncate on public.webhook_dlq is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.alert_rules
for each row execute function dlq._audit_change(
  'name', 'severity_at_warning', 'severity_at_error', 'more_than', 'longer_than', 'hold', 'quiet', 'enabled', 'runbook');
alter table dlq.alert_rules enable always trigger audit;
comment on trigger audit on dlq.alert_rules is 'Records who changes a rule.';

create or replace trigger audit_truncate
after truncate on dlq.alert_rules
for each statement execute function dlq._audit_change();
alter table dlq.alert_rules enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.alert_rules is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.alert_channels
for each row execute function dlq._audit_change(
  'name', 'created_at', 'kind', 'host', 'secret', 'severities', 'enabled', 'allow_http', 'allow_private');
alter table dlq.alert_channels enable always trigger audit;
comment on trigger audit on dlq.alert_channels is 'Records who changes who is told.';

create or replace trigger audit_truncate
after truncate on dlq.alert_channels
for each statement execute function dlq._audit_change();
alter table dlq.alert_channels enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.alert_channels is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.alert_silences
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change('rule', 'silenced_at', 'silenced_until', 'silenced_by', 'reason');
alter table dlq.alert_silences enable always trigger audit;
comment on trigger audit on dlq.alert_silences is 'Records who silences a rule by hand. The verbs do so themselves, with the reason.';

create or replace trigger audit_truncate
after truncate on dlq.alert_silences
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.alert_silences enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.alert_silences is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.alerts
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'id', 'since', 'raised_at', 'changed_at', 'good_since', 'resolved_at', 'edge', 'rule', 'severity', 'subjects');
alter table dlq.alerts enable always trigger audit;
comment on trigger audit on dlq.alerts is 'Records who rewrites the history of alerts.';

create or replace trigger audit_truncate
after truncate on dlq.alerts
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.alerts enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.alerts is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.alert_deliveries
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'alert_id', 'channel', 'edge', 'created_at', 'next_try_at', 'sent_at', 'settled_at', 'attempts', 'status_code', 'rule', 'event', 'status');
alter table dlq.alert_deliveries enable always trigger audit;
comment on trigger audit on dlq.alert_deliveries is 'Records who rewrites what was told.';

create or replace trigger audit_truncate
after truncate on dlq.alert_deliveries
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.alert_deliveries enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.alert_deliveries is 'Records who empties it.';

create or replace trigger audit
after insert or update or delete on dlq.alert_requests
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change(
  'request_id', 'alert_id', 'dispatched_at', 'missing_since', 'net_oid', 'edge', 'timeout_ms', 'rule', 'channel');
alter table dlq.alert_requests enable always trigger audit;
comment on trigger audit on dlq.alert_requests is 'Records who meddles with the requests of alerts.';

create or replace trigger audit_truncate
after truncate on dlq.alert_requests
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._audit_change();
alter table dlq.alert_requests enable always trigger audit_truncate;
comment on trigger audit_truncate on dlq.alert_requests is 'Records who empties it.';

create or replace trigger append_only
before update or delete or truncate on dlq.audit_log
for each statement when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner')
execute function dlq._refuse();
alter table dlq.audit_log enable always trigger append_only;
comment on trigger append_only on dlq.audit_log is 'What was recorded stays, but for what dlq.maintain() removes when it is old, if a setting says so.';

create or replace trigger written_by_functions
before insert on dlq.audit_log
for each statement when (current_user <> 'dlq_owner')
execute function dlq._refuse();
alter table dlq.audit_log enable always trigger written_by_functions;
comment on trigger written_by_functions on dlq.audit_log is 'Nobody records an act that was not done.';
