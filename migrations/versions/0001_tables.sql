-- The tables. Everything a person names is in public, everything else in dlq.
--
-- Columns are ordered by width (16, 8, 4 bytes, then variable), so that no row carries padding.
-- Row level security is on from the first statement; the policies and grants are code (sql/access/).

create table public.webhook_dlq (
  -- A version 7 uuid: 48 bits of milliseconds, then random bits. Neighbours in time are neighbours in the
  -- index, which after a checkpoint wrote a fifth of the WAL that random ids did.
  id uuid not null default overlay(gen_random_uuid()::text
    placing lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0') || '-7' from 1 for 15)::uuid,
  duplicate_of uuid,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  next_retry_at timestamptz,
  last_retry_at timestamptz,
  settled_at timestamptz,
  erased_at timestamptz,
  retry_count integer not null default 0,
  unanswered_count integer not null default 0,
  attempt_count integer not null default 0,
  service text not null,
  status text not null default 'pending',
  phone_number text,
  idempotency_key text,
  correlation_id text,
  error_message text,
  headers jsonb,
  payload jsonb,
  raw_body bytea,
  constraint webhook_dlq_pkey primary key (id),
  constraint service_is_a_slug check (service ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  constraint status_is_known check (status in ('pending', 'processing', 'reprocessed', 'failed', 'discarded')),
  constraint pending_has_a_next_retry check (status <> 'pending' or next_retry_at is not null),
  constraint settled_has_a_time check ((status in ('reprocessed', 'failed', 'discarded')) = (settled_at is not null)),
  constraint counts_are_not_negative check (retry_count >= 0 and unanswered_count >= 0 and attempt_count >= 0),
  constraint there_is_a_body check (payload is not null or raw_body is not null),
  constraint headers_are_an_object check (jsonb_typeof(headers) = 'object'),
  constraint what_is_erased_is_not_sent check (erased_at is null or settled_at is not null)
)
-- An entry leaves two dead rows while it is delivered (no update is HOT, 0 of 24,000, so a fillfactor would earn nothing), and one when it is
-- removed. By PostgreSQL's 0.2 they stay until they are a fifth of what is stored, two million of ten, and with them the head of the claim's
-- index, which no new entry reuses: behind 100,000 of a service that were delivered each claim reads 405 pages, vacuumed 15. So a
-- fiftieth: 5.0 us of vacuum an entry, not 3.3, and a table of 1.18 times its size, not 1.29. Not less: where fewer than 2 % of the pages
-- have dead rows, vacuum leaves the indexes alone (at ten million rows and 0.01 two times of three).
-- By PostgreSQL's 0.1 a million of ten can wait, or have failed, before statistics know: with 50,000 of each unknown a list of the last 50 that
-- failed reads 6,615 pages, then 311. To analyze takes 0.4 s of one core, at most once a minute. bench/speed/upkeep.py
with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
alter table public.webhook_dlq enable row level security;

-- The claim reads this one, service by service. Only waiting rows are in it, so its size is the backlog's.
create index idx_webhook_dlq_next_retry on public.webhook_dlq (service, next_retry_at) where status = 'pending';
-- What is under way and what has failed. An index over every status would be rewritten at every change, and
-- planners prefer it to the one above.
create index idx_webhook_dlq_status on public.webhook_dlq (status, settled_at) where status in ('processing', 'failed');
-- What is not delivered, by service. Delivered rows are the bulk, and nobody looks for them by service.
create index idx_webhook_dlq_service on public.webhook_dlq (service, created_at) where status <> 'reprocessed';
-- The echoes of an entry, for its story.
create index idx_webhook_dlq_duplicate_of on public.webhook_dlq (duplicate_of) where duplicate_of is not null;
create index idx_webhook_dlq_created_at on public.webhook_dlq (created_at);
-- What is done with, oldest first: dlq.maintain() removes it from this end. Entries of one transaction share their time, so it
-- is a few bytes an entry, appended at its right edge.
create index idx_webhook_dlq_settled_at on public.webhook_dlq (settled_at) where status in ('reprocessed', 'discarded');
-- Keys of any length, by digest. decode(replace()) is the text's own bytes: convert_to() is not immutable.
create unique index idx_webhook_dlq_idempotency on public.webhook_dlq
  (service, sha256(decode(replace(idempotency_key, '\', '\\'), 'escape'))) where idempotency_key is not null;

comment on table public.webhook_dlq is
$$A failed webhook: what came in, and how its retries stand.
pending -> processing -> reprocessed, or back to pending with a later next_retry_at, or failed when the retries are
used up. discarded: by a person, or as the echo of a retry. Insert service and a payload; the rest has defaults.$$;
comment on column public.webhook_dlq.id is 'Sent with every attempt as dlq-entry and idempotency-key. A version 7 uuid.';
comment on column public.webhook_dlq.duplicate_of is 'For an echo: the entry whose retry the handler stored again, which may be gone by now. Null otherwise.';
comment on column public.webhook_dlq.created_at is 'When it was stored.';
comment on column public.webhook_dlq.updated_at is 'When anything in this row last changed.';
comment on column public.webhook_dlq.next_retry_at is 'Not sent before this time. Null unless pending.';
comment on column public.webhook_dlq.last_retry_at is 'When it was last handed to the sender.';
comment on column public.webhook_dlq.settled_at is 'When it became reprocessed, failed or discarded. Null before.';
comment on column public.webhook_dlq.erased_at is 'When dlq.erase() took its body out: it cannot be sent any more. Null otherwise.';
comment on column public.webhook_dlq.retry_count is 'Retries used up: attempts that failed. An attempt without an answer uses up none.';
comment on column public.webhook_dlq.unanswered_count is 'Attempts of which nobody knows the outcome.';
comment on column public.webhook_dlq.attempt_count is 'Attempts ever made. Never reset.';
comment on column public.webhook_dlq.service is 'Whose webhook this is: selects the endpoint. 1 to 63 of a-z, 0-9, _ and -.';
comment on column public.webhook_dlq.status is 'pending, processing, reprocessed, failed or discarded.';
comment on column public.webhook_dlq.phone_number is 'Whom it concerns, where the service has such a number. Personal data.';
comment on column public.webhook_dlq.idempotency_key is 'The caller''s name for this webhook. Unique within its service, by SHA-256.';
comment on column public.webhook_dlq.correlation_id is 'The caller''s trace. Sent with every attempt as x-correlation-id.';
comment on column public.webhook_dlq.error_message is 'Why it failed, as the handler told it.';
comment on column public.webhook_dlq.headers is 'The headers it came with, one JSON object.';
comment on column public.webhook_dlq.payload is 'Its body. Null if that was not JSON, or not JSON that jsonb can hold: see raw_body.';
comment on column public.webhook_dlq.raw_body is 'Its body byte for byte. Optional where payload holds it.';

create table public.dlq_processing_log (
  id bigint generated always as identity,
  processed_at timestamptz not null,
  duration interval,
  entries_processed integer not null default 0,
  entries_failed integer not null default 0,
  dispatched integer not null default 0,
  unanswered integer not null default 0,
  status text not null default 'running',
  error_message text,
  constraint dlq_processing_log_pkey primary key (id),
  constraint status_is_known check (status in ('running', 'ok', 'error', 'interrupted'))
);
alter table public.dlq_processing_log enable row level security;
create index idx_dlq_processing_log_processed_at on public.dlq_processing_log (processed_at);
create index idx_dlq_processing_log_running on public.dlq_processing_log (id) where status = 'running';

comment on table public.dlq_processing_log is
$$One run of the processor. A run with nothing to do is here too: this is the heartbeat.$$;
comment on column public.dlq_processing_log.id is 'Ascending, with gaps.';
comment on column public.dlq_processing_log.processed_at is 'When the run began.';
comment on column public.dlq_processing_log.duration is 'How long it took, up to its last recorded pass.';
comment on column public.dlq_processing_log.entries_processed is 'Entries delivered in this run.';
comment on column public.dlq_processing_log.entries_failed is 'Attempts that failed in this run, whether or not retries are left.';
comment on column public.dlq_processing_log.dispatched is 'Attempts handed to the sender in this run.';
comment on column public.dlq_processing_log.unanswered is 'Attempts given up without an answer in this run.';
comment on column public.dlq_processing_log.status is 'running, ok, error, or interrupted: it ended without saying so.';
comment on column public.dlq_processing_log.error_message is 'What went wrong, beginning with the SQLSTATE.';

create unlogged table dlq.in_flight (
  entry_id uuid not null,
  request_id bigint not null,
  dispatched_at timestamptz not null,
  missing_since timestamptz,
  net_oid oid not null,
  attempt integer not null,
  timeout_ms integer not null,
  echoed boolean not null default false,
  is_probe boolean not null default false,
  service text not null,
  digest bytea not null,
  constraint in_flight_pkey primary key (entry_id)
);
alter table dlq.in_flight enable row level security;
create index in_flight_service_digest on dlq.in_flight (service, digest);
create index in_flight_request on dlq.in_flight (request_id);

comment on table dlq.in_flight is
$$A request handed to pg_net and not yet settled.
Unlogged, because pg_net's own tables are: a crash or a failover empties all of them at the same moment, and an
entry in processing without a row here is one whose request is gone.$$;
comment on column dlq.in_flight.entry_id is 'The entry in webhook_dlq.';
comment on column dlq.in_flight.request_id is 'What net.http_post() returned.';
comment on column dlq.in_flight.dispatched_at is 'By the real clock, as pg_net''s times are.';
comment on column dlq.in_flight.missing_since is 'Since when it is neither queued nor answered. Null while it is one of them.';
comment on column dlq.in_flight.net_oid is 'The oid of net._http_response then: another oid means other request ids. 0: the id was not ours alone.';
comment on column dlq.in_flight.attempt is 'Its number among the entry''s attempts, from 1.';
comment on column dlq.in_flight.timeout_ms is 'How long the sender waits for the answer, in milliseconds.';
comment on column dlq.in_flight.echoed is 'The handler has stored this failure again: it has not been delivered, whatever it answers.';
comment on column dlq.in_flight.is_probe is 'Sent to see whether the endpoint is back: if it is not, that uses up no retry.';
comment on column dlq.in_flight.service is 'The entry''s service.';
comment on column dlq.in_flight.digest is 'SHA-256 of the body, by which an echo is recognised.';

create table dlq.delivery_attempts (
  entry_id uuid not null,
  dispatched_at timestamptz not null,
  settled_at timestamptz not null,
  request_id bigint,
  attempt integer not null,
  status_code integer,
  is_probe boolean not null default false,
  outcome text not null,
  service text not null,
  error text,
  reply text,
  constraint delivery_attempts_pkey primary key (entry_id, attempt),
  constraint outcome_is_known check (
    outcome in ('delivered', 'http_error', 'network_error', 'echoed', 'unanswered', 'not_sent'))
)
-- A thirtieth of it is removed each night, and the next day's go where those were, once vacuum has been there: by PostgreSQL's 0.2 every sixth
-- day, so that the table grows to 1.23 times its size and its index to 1.45; like this each night, to 1.03 and 1.07. bench/speed/upkeep.py
-- Not frozen early: that is 110 bytes of WAL an attempt, as much as the attempt, which is gone in a month. Not partitioned: docs/retention.md.
with (autovacuum_vacuum_scale_factor = 0.02);
alter table dlq.delivery_attempts enable row level security;

comment on table dlq.delivery_attempts is
$$One attempt, written once, when it is settled. History: never updated, and removed with its entry by dlq.maintain().
There is no foreign key to webhook_dlq: what happened outlives an entry that a person deletes, by dlq.settings.retain_settled,
and the check would cost every attempt.$$;
comment on column dlq.delivery_attempts.entry_id is 'The entry in webhook_dlq.';
comment on column dlq.delivery_attempts.dispatched_at is 'When it was handed to the sender, by the real clock.';
comment on column dlq.delivery_attempts.settled_at is 'When its outcome was recorded.';
comment on column dlq.delivery_attempts.request_id is 'pg_net''s id of the request. Not unique: ids restart after a crash.';
comment on column dlq.delivery_attempts.attempt is 'Its number among the entry''s attempts, from 1. Sent as dlq-attempt.';
comment on column dlq.delivery_attempts.status_code is 'The HTTP status, where there was an answer.';
comment on column dlq.delivery_attempts.is_probe is
'Sent while the endpoint''s circuit was open, to see whether it is back. A failure that was the endpoint''s used up no retry.';
comment on column dlq.delivery_attempts.outcome is
$$delivered: 2xx. http_error: another status, or a redirect. network_error: no answer, for a known reason.
echoed: the handler stored the failure again. unanswered: nobody knows. not_sent: the request could not be made.$$;
comment on column dlq.delivery_attempts.service is 'The entry''s service.';
comment on column dlq.delivery_attempts.error is 'What went wrong, in the sender''s or PostgreSQL''s words.';
comment on column dlq.delivery_attempts.reply is 'The first 1,000 bytes of the answer''s body.';

-- A row is updated by every pass that has an answer of its kind: the room on its page lets it stay there. 92 of 100 updates are HOT,
-- with full pages 76 (of 40,000 of 200 rows, vacuumed each second).
create table dlq.attempt_counts (
  hour timestamptz not null,
  attempts bigint not null,
  timeouts bigint not null default 0,
  seconds double precision not null,
  seconds_max double precision not null,
  status_code integer not null default 0,
  service text not null,
  outcome text not null,
  constraint attempt_counts_pkey primary key (hour, service, outcome, status_code),
  constraint counts_are_not_negative check (attempts >= 0 and timeouts >= 0 and seconds >= 0 and seconds_max >= 0)
) with (fillfactor = 50);
alter table dlq.attempt_counts enable row level security;

comment on table dlq.attempt_counts is
$$How many attempts ended how, by the hour: what dlq.delivery_attempts holds, added up as it is written, so that neither a rate nor
a counter reads history. Sums never decrease: dlq.maintain() adds hours older than retain_runs to the row of hour -infinity.
To read: dlq.success_rate, dlq.top_failures, dlq.slowest_endpoints.$$;
comment on column dlq.attempt_counts.hour is
$$The hour in which they were recorded, its beginning in UTC. -infinity: all earlier ones, and those that dlq.erase() cut off.$$;
comment on column dlq.attempt_counts.attempts is 'How many.';
comment on column dlq.attempt_counts.timeouts is 'How many of them had no answer in time.';
comment on column dlq.attempt_counts.seconds is
'How long they took in all, from dispatch to record: the wait in the sender''s queue and for the next pass is part of it. 0 for not_sent.';
comment on column dlq.attempt_counts.seconds_max is 'How long the longest of them took.';
comment on column dlq.attempt_counts.status_code is 'The HTTP status. 0: there was no answer.';
comment on column dlq.attempt_counts.service is 'As in dlq.delivery_attempts.';
comment on column dlq.attempt_counts.outcome is 'As in dlq.delivery_attempts.';

create table dlq.amendments (
  entry_id uuid not null,
  amended_at timestamptz not null,
  amended_by text not null,
  reason text not null,
  payload jsonb,
  raw_body bytea,
  constraint amendments_pkey primary key (entry_id, amended_at)
);
alter table dlq.amendments enable row level security;

comment on table dlq.amendments is
$$What an entry's body was before a person repaired it: dlq.amend(). No foreign key, as for dlq.delivery_attempts.$$;
comment on column dlq.amendments.entry_id is 'The entry in webhook_dlq.';
comment on column dlq.amendments.amended_at is 'When, by the real clock.';
comment on column dlq.amendments.amended_by is 'Who.';
comment on column dlq.amendments.reason is 'Why.';
comment on column dlq.amendments.payload is 'The payload before.';
comment on column dlq.amendments.raw_body is 'The bytes before, where there were any.';

create table dlq.replays (
  id bigint generated always as identity,
  replayed_at timestamptz not null,
  cancelled_at timestamptz,
  last_created_at timestamptz,
  last_entry_id uuid,
  matched integer not null,
  entries integer not null,
  per_minute integer,
  replayed_by text not null,
  cancelled_by text,
  reason text not null,
  filters jsonb not null,
  constraint replays_pkey primary key (id)
);
alter table dlq.replays enable row level security;

comment on table dlq.replays is
$$One call of dlq.replay(), and those of dlq.continue_replay() that go on with it: what a person has sent again. What became of
it: dlq.replay_progress.$$;
comment on column dlq.replays.id is 'Ascending, with gaps.';
comment on column dlq.replays.replayed_at is 'When. The pace is counted from here.';
comment on column dlq.replays.cancelled_at is 'When it was cancelled. Null: it was not.';
comment on column dlq.replays.last_created_at is 'When the last entry was stored that it took: dlq.continue_replay() goes on behind it. Null: it took none.';
comment on column dlq.replays.last_entry_id is 'That entry.';
comment on column dlq.replays.matched is 'How many entries the filters matched.';
comment on column dlq.replays.entries is 'How many of them it took, the oldest: at most max_entries.';
comment on column dlq.replays.per_minute is 'How many become due a minute. Null: all at once.';
comment on column dlq.replays.replayed_by is 'Who.';
comment on column dlq.replays.cancelled_by is 'Who cancelled it.';
comment on column dlq.replays.reason is 'Why.';
comment on column dlq.replays.filters is
'What it was asked for, by the names of dlq.replay(). The digits of a phone number are a keyed digest, as in dlq.audit_log.';

create table dlq.replayed_entries (
  entry_id uuid not null,
  replay_id bigint not null,
  due_at timestamptz not null,
  next_retry_at timestamptz,
  settled_at timestamptz,
  retry_count integer not null,
  unanswered_count integer not null,
  attempt_count integer not null,
  put_back boolean not null default false,
  status text not null,
  constraint replayed_entries_pkey primary key (replay_id, entry_id)
);
alter table dlq.replayed_entries enable row level security;
create index replayed_entries_entry on dlq.replayed_entries (entry_id);

comment on table dlq.replayed_entries is
$$An entry of a replay, and what it was before, so that dlq.cancel_replay() can put it back. It goes with its entry. No foreign
keys, as for dlq.delivery_attempts.$$;
comment on column dlq.replayed_entries.entry_id is 'The entry in webhook_dlq.';
comment on column dlq.replayed_entries.replay_id is 'The replay in dlq.replays.';
comment on column dlq.replayed_entries.due_at is 'When the replay had it due.';
comment on column dlq.replayed_entries.next_retry_at is 'Its next_retry_at before.';
comment on column dlq.replayed_entries.settled_at is 'Its settled_at before.';
comment on column dlq.replayed_entries.retry_count is 'Its retry_count before.';
comment on column dlq.replayed_entries.unanswered_count is 'Its unanswered_count before.';
comment on column dlq.replayed_entries.attempt_count is 'Its attempt_count then: while that is the same, it has not been tried since.';
comment on column dlq.replayed_entries.put_back is 'The replay was cancelled before it was tried, and it is again what it was.';
comment on column dlq.replayed_entries.status is 'Its status before.';

create table dlq.endpoints (
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  timeout_ms integer not null default 5000,
  max_in_flight integer not null default 20,
  enabled boolean not null default true,
  allow_http boolean not null default false,
  allow_private boolean not null default false,
  service text not null,
  url text not null,
  health_url text,
  host text generated always as (lower(rtrim(substring(url from '^https?://(\[[^]]*\]|[^:/?]*)'), '.'))) stored,
  signing text,
  auth text,
  auth_secret text,
  body text not null default 'json',
  headers jsonb not null default '{}',
  secret_names text[],
  retry_schedule interval[],
  constraint endpoints_pkey primary key (service),
  constraint service_is_a_slug check (service = '*' or service ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  -- scheme, host without user information, optional port, then printable ASCII: what libcurl takes as it is
  constraint url_is_http check (
    url ~ '^https?://([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?$'
    or service = '*' and url ~ '^https?://([a-zA-Z0-9._{}-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?$'),
  constraint health_url_is_http check (
    health_url ~ '^https?://([a-zA-Z0-9._{}-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?$'),
  constraint https_unless_allowed check (allow_http or url like 'https://%'),
  -- In order: an IPv6 address that is not global unicast, or that stands for an IPv4 address (6to4, Teredo); whatever a
  -- resolver reads as an IPv4 address (2130706433, 0x7f.1, 127.1, 0177.0.0.1), unless it is four plain numbers and public;
  -- a name without a dot, a reserved one, or one whose end is for whoever names a service to choose.
  constraint public_unless_allowed check (allow_private or case
    when host like '[%' then host ~ '^\[[23][0-9a-f]{3}:' and host !~ '^\[(2002|2001:0{0,4}):'
    when host ~ '(^|\.)([0-9]+|0x[0-9a-f]*)$' then
      case when host ~ '^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}$' then
        not host::inet <<= any ('{0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,127.0.0.0/8,169.254.0.0/16,172.16.0.0/12,192.0.0.0/24,192.168.0.0/16,198.18.0.0/15,224.0.0.0/3}'::inet[])
      else false end
    else host like '%_._%' and host !~ '(^|\.)(localhost|localdomain|local|internal|home\.arpa)$' and host !~ '[{}][^.]*$'
  end),
  constraint template_names_the_service check ((service = '*') = (position('{service}' in url) > 0)),
  constraint timeout_is_bounded check (timeout_ms between 1 and 30000),
  constraint max_in_flight_is_bounded check (max_in_flight between 1 and 10000),
  constraint headers_are_an_object check (jsonb_typeof(headers) = 'object'),
  constraint headers_are_sendable check (not jsonb_path_exists(headers,
    '$.keyvalue() ? (@.value.type() != "string" || @.value like_regex "[\\x00-\\x1f\\x7f]"
      || !(@.key like_regex "^[!#$%&''*+.^_`|~0-9A-Za-z-]+$")
      || @.key like_regex "^(host|content-length|content-type|transfer-encoding|user-agent|webhook-id|idempotency-key|dlq-entry|dlq-attempt)$" flag "i")')),
  constraint signing_is_known check (signing in ('x-hub-signature-256', 'standard-webhooks')),
  constraint signing_has_secrets check (
    (signing is null) = (secret_names is null)
    and cardinality(secret_names) between 1 and 10 and array_position(secret_names, null) is null),
  constraint auth_is_known check (auth in ('bearer', 'apikey', 'both')),
  constraint auth_has_a_secret check ((auth is null) = (auth_secret is null)),
  constraint body_is_known check (body in ('json', 'raw')),
  constraint retry_schedule_is_waits check (
    retry_schedule is null
    or (cardinality(retry_schedule) between 1 and 50 and array_position(retry_schedule, null) is null
      and interval '0' < all (retry_schedule) and interval '30 days' >= all (retry_schedule)))
);
alter table dlq.endpoints enable row level security;

comment on table dlq.endpoints is
$$Where a service's webhooks are retried. The row * is the template for services that have none of their own.$$;
comment on column dlq.endpoints.created_at is 'When it was set first.';
comment on column dlq.endpoints.updated_at is 'When it was set last.';
comment on column dlq.endpoints.timeout_ms is 'How long the sender waits for the whole answer: 1 to 30000 milliseconds.';
comment on column dlq.endpoints.max_in_flight is 'At most this many of its requests are under way at once.';
comment on column dlq.endpoints.enabled is 'If false, its entries wait.';
comment on column dlq.endpoints.allow_http is 'Whether url may be http: the payload then crosses the network in the clear.';
comment on column dlq.endpoints.allow_private is
'Whether url may name a host that is not public: loopback, a private or link-local address, localhost, a name without a dot.';
comment on column dlq.endpoints.service is 'As in webhook_dlq.service, or * for the template.';
comment on column dlq.endpoints.url is 'POSTed to. In the template, {service} stands for the service.';
comment on column dlq.endpoints.health_url is
$$Asked by dlqctl health --probe, with GET, from where that runs; it must answer 2xx. In the template, {service} stands for the service.
Null: only its host is asked whether it answers.$$;
comment on column dlq.endpoints.host is 'The host in url, in lower case.';
comment on column dlq.endpoints.headers is 'Sent with every attempt, one JSON object of strings. Anyone who may read pg_net''s queue can read them.';
comment on column dlq.endpoints.signing is
'How its webhooks are signed: x-hub-signature-256 or standard-webhooks. Null: not at all.';
comment on column dlq.endpoints.secret_names is
'Names of the secrets that sign. Retries are signed with the first (standard-webhooks: with each); what comes in may be signed with any.';
comment on column dlq.endpoints.auth is 'How auth_secret is sent: bearer (Authorization: Bearer), apikey (a header of that name) or both.';
comment on column dlq.endpoints.auth_secret is 'Name of the secret that is sent with every attempt. Anyone who may read pg_net''s queue can read it there.';
comment on column dlq.endpoints.body is
'json: the payload, as jsonb writes it. raw: the bytes as they came, with the headers they came with, for entries that have them.';
comment on column dlq.endpoints.retry_schedule is 'The waits before each retry. Null: the one in dlq.settings.';

create table dlq.secrets (
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  name text not null,
  value text not null,
  constraint secrets_pkey primary key (name),
  constraint name_is_a_word check (name ~ '^[A-Za-z_][A-Za-z0-9_.-]{0,127}$'),
  constraint value_is_not_empty check (value <> '')
);
alter table dlq.secrets enable row level security;

comment on table dlq.secrets is
$$Secrets by name, for servers without Supabase's Vault. Nobody but dlq_owner reads it, and dlq.set_secret() writes it.
The values are not encrypted: a dump, a copy of the data folder and a superuser have them.$$;
comment on column dlq.secrets.created_at is 'When it was set first.';
comment on column dlq.secrets.updated_at is 'When it was set last.';
comment on column dlq.secrets.name is 'As endpoints name it: a letter or _, then letters, digits, _, . and -, 128 at most.';
comment on column dlq.secrets.value is 'The secret itself.';

create table dlq.pauses (
  paused_at timestamptz not null,
  paused_until timestamptz,
  service text not null,
  paused_by text not null,
  reason text not null,
  constraint pauses_pkey primary key (service),
  constraint service_is_a_slug check (service = '*' or service ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);
alter table dlq.pauses enable row level security;

comment on table dlq.pauses is 'A row is a pause that a person has made: nothing is sent to that service. To resume deletes it.';
comment on column dlq.pauses.paused_at is 'Since when.';
comment on column dlq.pauses.paused_until is 'When it ends by itself. Null: when somebody resumes it.';
comment on column dlq.pauses.service is 'As in webhook_dlq.service, or * for everything.';
comment on column dlq.pauses.paused_by is 'Who paused it.';
comment on column dlq.pauses.reason is 'Why.';

create table dlq.endpoint_state (
  failing_since timestamptz,
  probe_at timestamptz,
  cap_changed_at timestamptz,
  timed_out_at timestamptz,
  cap integer,
  trips integer not null default 0,
  service text not null,
  trouble text,
  suspects uuid[] not null default '{}',
  constraint endpoint_state_pkey primary key (service),
  constraint service_is_a_slug check (service ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  constraint cap_is_not_negative check (cap >= 0),
  constraint trips_are_not_negative check (trips >= 0),
  constraint open_has_a_next_probe check (cap is distinct from 0 or probe_at is not null)
);
alter table dlq.endpoint_state enable row level security;

comment on table dlq.endpoint_state is
$$The circuit breaker of a service whose endpoint is, or lately was, in trouble. The processor alone writes it; no row: all is
well. It is apart from dlq.endpoints so that a configuration is not rewritten at every answer. To read: dlq.circuits.$$;
comment on column dlq.endpoint_state.failing_since is 'The first failure since the last answer that was none. Null: the last pass went well.';
comment on column dlq.endpoint_state.probe_at is 'With cap 0: when one entry is sent to see whether the endpoint is back.';
comment on column dlq.endpoint_state.cap_changed_at is
'By the real clock. Answers to requests that are older do not move cap: it moves once a round trip.';
comment on column dlq.endpoint_state.timed_out_at is
'By the real clock: the last pass in which more requests timed out than were answered. Null since one in which it was the other way round.';
comment on column dlq.endpoint_state.cap is
'At most this many of its requests are under way at once. Null: the endpoint''s max_in_flight. 0: the circuit is open, nothing but probes is sent.';
comment on column dlq.endpoint_state.trips is 'How often in a row the circuit opened or a probe failed: the pauses grow with it.';
comment on column dlq.endpoint_state.service is 'As in webhook_dlq.service.';
comment on column dlq.endpoint_state.trouble is 'The last failure: HTTP and a status, or an outcome as in dlq.delivery_attempts.';
comment on column dlq.endpoint_state.suspects is
'The entries, each once, that failed since cap last moved or something went well. At three cap is halved.';

create table dlq.net_workers (
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
  stopped_at timestamptz,
  answered bigint not null default 0,
  number integer not null,
  pid integer not null,
  slots integer not null,
  in_flight integer not null default 0,
  host text not null,
  version text not null,
  constraint net_workers_pkey primary key (number)
);
alter table dlq.net_workers enable row level security;

comment on table dlq.net_workers is
$$One process of dlqctl net-worker: its heartbeat, written every 10 seconds.
Logged, unlike schema net: health answers on a standby too. Rows unseen for a day are deleted by whoever ticks.$$;
comment on column dlq.net_workers.started_at is 'When it first connected, by the server''s clock.';
comment on column dlq.net_workers.seen_at is 'When it last wrote this row, by the server''s clock.';
comment on column dlq.net_workers.stopped_at is 'When it stopped in good order. Null while it runs, and if it was killed or cut off.';
comment on column dlq.net_workers.answered is 'Answers it has written since it started.';
comment on column dlq.net_workers.number is 'Its claims carry it: net.http_request_queue.claimed_by.';
comment on column dlq.net_workers.pid is 'Its process id on its host.';
comment on column dlq.net_workers.slots is 'How many requests it sends at a time at most.';
comment on column dlq.net_workers.in_flight is 'How many it was sending when it was last seen.';
comment on column dlq.net_workers.host is 'The machine it runs on, as that machine calls itself.';
comment on column dlq.net_workers.version is 'Of dlqctl.';

create table dlq.maintenance_log (
  id bigint generated always as identity,
  began_at timestamptz not null,
  duration interval,
  seen_up_to uuid,
  entries bigint not null default 0,
  attempts bigint not null default 0,
  attempts_seen bigint not null default 0,
  runs bigint not null default 0,
  cron_runs bigint,
  acts bigint not null default 0,
  left_over integer,
  status text not null default 'running',
  error_message text,
  constraint maintenance_log_pkey primary key (id),
  constraint status_is_known check (status in ('running', 'ok', 'partial', 'error', 'interrupted'))
);
alter table dlq.maintenance_log enable row level security;

comment on table dlq.maintenance_log is
$$One run of dlq.maintain(), and how many rows it has removed of what. Its own rows go with those of dlq_processing_log.$$;
comment on column dlq.maintenance_log.id is 'Ascending, with gaps.';
comment on column dlq.maintenance_log.began_at is 'When the run began.';
comment on column dlq.maintenance_log.duration is 'How long it took, up to its last recorded batch.';
comment on column dlq.maintenance_log.seen_up_to is
'Up to which entry dlq.delivery_attempts was looked through for attempts whose entry is gone: the next run goes on there. Null: to the end.';
comment on column dlq.maintenance_log.entries is 'Entries removed from webhook_dlq.';
comment on column dlq.maintenance_log.attempts is 'Attempts removed: of these entries, and of entries that a person has deleted.';
comment on column dlq.maintenance_log.attempts_seen is 'Attempts looked at because their entry may be gone.';
comment on column dlq.maintenance_log.runs is 'Rows removed from dlq_processing_log, from here, from dlq.replays and from dlq.alerts.';
comment on column dlq.maintenance_log.cron_runs is
'Rows of ours removed from cron.job_run_details. Null: it is not in this database, or not for the caller to tidy.';
comment on column dlq.maintenance_log.acts is 'Rows removed from dlq.audit_log, which has an act expire for them.';
comment on column dlq.maintenance_log.left_over is
'Entries that are left for the next run because the time was up, counted up to 10,001. Null: it came to the end.';
comment on column dlq.maintenance_log.status is
'running, ok, partial: the time was up, error: some could not be removed, or interrupted: it was killed, or another took over.';
comment on column dlq.maintenance_log.error_message is 'The first thing that went wrong, beginning with the SQLSTATE.';

create table dlq.alert_rules (
  hold interval not null default '0',
  quiet interval not null default '5 minutes',
  longer_than interval,
  more_than integer,
  enabled boolean not null default true,
  name text not null,
  severity_at_warning text,
  severity_at_error text,
  runbook text not null,
  constraint alert_rules_pkey primary key (name),
  constraint hold_is_bounded check (hold between '0' and '1 day'),
  constraint quiet_is_bounded check (quiet between '0' and '1 day'),
  constraint longer_than_is_bounded check (longer_than between '1 minute' and '30 days'),
  constraint more_than_is_bounded check (more_than between 0 and 10000),
  constraint counts_and_ages_are_told_apart check (
    (name in ('pending', 'failed')) = (more_than is not null)
    and case when name in ('processor', 'answers', 'circuits', 'retention') then longer_than is not null
      else name = 'overdue' or longer_than is null end),
  constraint processor_is_missed_within_a_day check (name <> 'processor' or longer_than <= '1 day'),
  constraint severities_are_known check (
    severity_at_warning in ('info', 'warning', 'error', 'critical')
    and severity_at_error in ('info', 'warning', 'error', 'critical')),
  constraint there_is_a_severity check (severity_at_warning is not null or severity_at_error is not null),
  constraint runbook_is_a_place check (runbook ~ '^[!-~]+$' and length(runbook) <= 500)
);
alter table dlq.alert_rules enable row level security;
insert into dlq.alert_rules
  (name, severity_at_warning, severity_at_error, more_than, longer_than, hold, runbook)
select r.name, r.at_warning, r.at_error, r.more_than, r.longer_than::interval, r.hold::interval, 'docs/runbook.md#' || r.name
from (values
  ('processor', null, 'critical', null, '10 minutes', '0'),
  ('sender', null, 'critical', null, null, '0'),
  ('answers', null, 'critical', null, '5 minutes', '0'),
  ('overdue', 'error', null, null, null, '0'),
  ('endpoints', null, 'error', null, null, '0'),
  ('secrets', null, 'error', null, null, '0'),
  ('circuits', 'warning', 'error', null, '1 hour', '5 minutes'),
  ('paused', 'warning', null, null, null, '1 hour'),
  ('pending', 'warning', null, 100, null, '0'),
  ('failed', null, 'error', 10, null, '0'),
  ('retention', 'warning', null, null, '2 days', '0'),
  ('alerts', null, 'error', null, null, '0')
) as r (name, at_warning, at_error, more_than, longer_than, hold);

comment on table dlq.alert_rules is
$$A line of dlq.health that raises an alert, and from when on that line is not well: the one place for each threshold.
Change them, or dlq.set_alert_rule() does; which lines there are is the code's.$$;
comment on column dlq.alert_rules.hold is 'For so long the line must have been unwell before the alert is raised. 0: the first look raises it.';
comment on column dlq.alert_rules.quiet is 'For so long the line must have been well again before the alert is resolved.';
comment on column dlq.alert_rules.longer_than is
'What takes longer than this is not well: processor, answers, circuits (then an error), retention and overdue, where null is two cycles.';
comment on column dlq.alert_rules.more_than is 'More than so many are not well: pending, and failed within an hour.';
comment on column dlq.alert_rules.enabled is 'If false, it raises no alert. The line in dlq.health stays, and its threshold.';
comment on column dlq.alert_rules.name is 'The line''s name in dlq.health.';
comment on column dlq.alert_rules.severity_at_warning is
'How severe it is while the line says warning: info, warning, error or critical, as PagerDuty has them. Null: no alert then.';
comment on column dlq.alert_rules.severity_at_error is 'The same while it says error. Null: as at a warning, so that nothing is resolved by getting worse.';
comment on column dlq.alert_rules.runbook is 'What to do about it. An http(s) URL is sent as a link.';

create table dlq.alert_silences (
  silenced_at timestamptz not null,
  silenced_until timestamptz not null,
  rule text not null,
  silenced_by text not null,
  reason text not null,
  constraint alert_silences_pkey primary key (rule)
);
alter table dlq.alert_silences enable row level security;

comment on table dlq.alert_silences is
$$A row is a person's wish not to be told of a rule for a while: dlq.silence(). The alerts are still kept in dlq.alerts.$$;
comment on column dlq.alert_silences.silenced_at is 'Since when.';
comment on column dlq.alert_silences.silenced_until is 'When it ends by itself. What is raised then is told then.';
comment on column dlq.alert_silences.rule is 'The rule in dlq.alert_rules, or * for all.';
comment on column dlq.alert_silences.silenced_by is 'Who wished it.';
comment on column dlq.alert_silences.reason is 'Why.';

create table dlq.alert_channels (
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  enabled boolean not null default true,
  allow_http boolean not null default false,
  allow_private boolean not null default false,
  name text not null,
  kind text not null,
  url text not null,
  host text generated always as (lower(rtrim(substring(url from '^https?://(\[[^]]*\]|[^:/?]*)'), '.'))) stored,
  secret text,
  severities text[] not null default '{critical,error,warning,info}',
  constraint alert_channels_pkey primary key (name),
  constraint name_is_a_slug check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  constraint kind_is_known check (kind in ('pagerduty', 'slack', 'webhook')),
  constraint url_is_http check (url ~ '^https?://([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?$'),
  constraint pagerduty_has_a_key check (kind <> 'pagerduty' or secret is not null and position('{secret}' in url) = 0),
  constraint secret_has_a_place check (
    kind <> 'slack' or (secret is not null) = (position('{secret}' in url) > 0) and (secret is not null or host <> 'hooks.slack.com')),
  constraint url_has_its_secret check (secret is not null or position('{secret}' in url) = 0),
  constraint severities_are_known check (
    cardinality(severities) > 0 and severities <@ '{critical,error,warning,info}' and array_position(severities, null) is null)
);
alter table dlq.alert_channels enable row level security;
-- What holds of where webhooks may go holds of alerts, in the same words.
do $$
declare
  v_constraint record;
begin
  for v_constraint in
    select c.conname, pg_get_constraintdef(c.oid) as definition
    from pg_constraint as c
    where c.conrelid = 'dlq.endpoints'::regclass and c.conname in ('https_unless_allowed', 'public_unless_allowed')
    order by c.conname
  loop
    execute format('alter table dlq.alert_channels add constraint %I %s', v_constraint.conname, v_constraint.definition);
  end loop;
end
$$;

comment on table dlq.alert_channels is 'Who is told of alerts: PagerDuty, Slack, or any webhook.';
comment on column dlq.alert_channels.created_at is 'When it was set first.';
comment on column dlq.alert_channels.updated_at is 'When it was set last.';
comment on column dlq.alert_channels.enabled is 'If false, nothing is sent to it, and of what begins nothing is kept for it; what it was told of is resolved when it is enabled.';
comment on column dlq.alert_channels.allow_http is 'Whether url may be http.';
comment on column dlq.alert_channels.allow_private is 'Whether url may name a host that is not public, as in dlq.endpoints.';
comment on column dlq.alert_channels.name is 'Its name here: 1 to 63 of a-z, 0-9, _ and -.';
comment on column dlq.alert_channels.kind is 'pagerduty (Events API v2), slack (an incoming webhook, and what takes the same) or webhook (our own JSON).';
comment on column dlq.alert_channels.url is 'POSTed to. {secret} stands for the secret''s value, so that it need not be written here.';
comment on column dlq.alert_channels.host is 'The host in url, in lower case.';
comment on column dlq.alert_channels.secret is
$$Name of its secret: PagerDuty's routing key; what {secret} stands for; or, with a webhook that has no {secret}, what signs it by
Standard Webhooks (whsec_...). Null: none.$$;
comment on column dlq.alert_channels.severities is 'The severities that are sent to it.';

create table dlq.alerts (
  id bigint generated always as identity,
  since timestamptz not null,
  raised_at timestamptz,
  changed_at timestamptz,
  good_since timestamptz,
  resolved_at timestamptz,
  edge integer not null default 0,
  rule text not null,
  severity text not null,
  detail text not null,
  remediation text,
  subjects text[] not null default '{}',
  constraint alerts_pkey primary key (id),
  constraint raised_has_an_edge check ((raised_at is not null) = (edge > 0)),
  constraint resolved_was_raised check (resolved_at is null or raised_at is not null)
);
alter table dlq.alerts enable row level security;
-- One rule, one alert at a time.
create unique index alerts_open on dlq.alerts (rule) where resolved_at is null;
create index alerts_resolved_at on dlq.alerts (resolved_at) where resolved_at is not null;

comment on table dlq.alerts is
$$An alert: a rule's line in dlq.health that is, or was, not well. Kept by dlq.evaluate_alerts(), whether or not anybody is told.
While nothing about it changes, nothing here does: what the line says now, dlq.health says.$$;
comment on column dlq.alerts.id is 'Ascending, with gaps.';
comment on column dlq.alerts.since is 'When the line was first seen to be unwell.';
comment on column dlq.alerts.raised_at is 'When it was raised. Null: it has not held for long enough yet, and goes without a trace if it ends before.';
comment on column dlq.alerts.changed_at is 'When it last became more severe, or of something more.';
comment on column dlq.alerts.good_since is 'Since when the line is well again. Null: it is not.';
comment on column dlq.alerts.resolved_at is 'When it was resolved. Null: it is not.';
comment on column dlq.alerts.edge is 'How many edges it has had: raised is the first, then each change, then resolved.';
comment on column dlq.alerts.rule is 'The rule in dlq.alert_rules; or test.';
comment on column dlq.alerts.severity is 'The highest it has had: info, warning, error or critical.';
comment on column dlq.alerts.detail is 'What the line said at the last edge but the resolving one.';
comment on column dlq.alerts.remediation is 'What the line said to type then.';
comment on column dlq.alerts.subjects is 'The services that it has been of, where the rule knows: circuits, endpoints, secrets and paused (* is everything).';

create table dlq.alert_deliveries (
  created_at timestamptz not null,
  next_try_at timestamptz not null,
  sent_at timestamptz,
  settled_at timestamptz,
  alert_id bigint not null,
  edge integer not null,
  attempts integer not null default 0,
  status_code integer,
  rule text not null,
  channel text not null,
  event text not null,
  status text not null default 'waiting',
  error text,
  reply text,
  constraint alert_deliveries_pkey primary key (alert_id, channel, edge),
  constraint event_is_known check (event in ('raised', 'changed', 'resolved')),
  constraint status_is_known check (status in ('waiting', 'sent', 'delivered', 'refused', 'given_up', 'superseded')),
  constraint settled_has_a_time check ((status in ('waiting', 'sent')) = (settled_at is null))
);
alter table dlq.alert_deliveries enable row level security;
create index alert_deliveries_open on dlq.alert_deliveries (rule, channel, alert_id, edge) where status in ('waiting', 'sent');
create index alert_deliveries_last on dlq.alert_deliveries (channel, settled_at);

comment on table dlq.alert_deliveries is
$$One edge of an alert on its way to one channel. One row an edge and channel, by its key: no edge is told twice, but for a request
whose fate nobody knows, which is sent again.$$;
comment on column dlq.alert_deliveries.created_at is 'When the edge was to be told.';
comment on column dlq.alert_deliveries.next_try_at is 'Not sent before this time.';
comment on column dlq.alert_deliveries.sent_at is 'When it was last handed to the sender, by the real clock.';
comment on column dlq.alert_deliveries.settled_at is 'When it came to its end. Null before.';
comment on column dlq.alert_deliveries.alert_id is 'The alert in dlq.alerts.';
comment on column dlq.alert_deliveries.edge is 'Which edge of it: 1 is raised.';
comment on column dlq.alert_deliveries.attempts is 'How often it was handed to the sender.';
comment on column dlq.alert_deliveries.status_code is 'The HTTP status of the last answer.';
comment on column dlq.alert_deliveries.rule is 'The alert''s rule: what a channel is told of one rule is told in order.';
comment on column dlq.alert_deliveries.channel is 'The channel in dlq.alert_channels.';
comment on column dlq.alert_deliveries.event is 'raised, changed (or raised again, to a channel that knows of it) or resolved.';
comment on column dlq.alert_deliveries.status is
$$waiting, sent (not answered yet), delivered (2xx), refused (sent once more after the channel has taken something), given_up (a day after the
alert was resolved), or superseded: a later edge said all of it before this one was sent.$$;
comment on column dlq.alert_deliveries.error is 'What went wrong, last.';
comment on column dlq.alert_deliveries.reply is 'The first 1,000 bytes of the last answer''s body.';

create unlogged table dlq.alert_requests (
  request_id bigint not null,
  alert_id bigint not null,
  dispatched_at timestamptz not null,
  missing_since timestamptz,
  net_oid oid not null,
  edge integer not null,
  timeout_ms integer not null,
  rule text not null,
  channel text not null,
  constraint alert_requests_pkey primary key (rule, channel)
);
alter table dlq.alert_requests enable row level security;

comment on table dlq.alert_requests is
$$A request of an alert that was handed to the sender and not yet answered: to dlq.alert_deliveries what dlq.in_flight is to webhook_dlq,
and unlogged for the same reason. Its key: of one rule, a channel is told one thing at a time.$$;
comment on column dlq.alert_requests.request_id is 'What net.http_post() returned.';
comment on column dlq.alert_requests.alert_id is 'The alert in dlq.alerts.';
comment on column dlq.alert_requests.dispatched_at is 'By the real clock, as pg_net''s times are.';
comment on column dlq.alert_requests.missing_since is 'Since when it is neither queued nor answered. Null while it is one of them.';
comment on column dlq.alert_requests.net_oid is 'The oid of net._http_response then. 0: the id was not ours alone.';
comment on column dlq.alert_requests.edge is 'The edge of the alert.';
comment on column dlq.alert_requests.timeout_ms is 'How long the sender waits for the answer, in milliseconds.';
comment on column dlq.alert_requests.rule is 'The alert''s rule.';
comment on column dlq.alert_requests.channel is 'The channel.';

create table dlq.alert_evaluation (
  singleton boolean not null default true,
  evaluated_at timestamptz not null default now(),
  constraint alert_evaluation_pkey primary key (singleton),
  constraint there_is_one_row check (singleton)
) with (fillfactor = 50);
alter table dlq.alert_evaluation enable row level security;
insert into dlq.alert_evaluation default values;

comment on table dlq.alert_evaluation is 'When the rules were last evaluated: one row, the heartbeat of dlq.evaluate_alerts().';
comment on column dlq.alert_evaluation.singleton is 'Always true: there is one row.';
comment on column dlq.alert_evaluation.evaluated_at is 'By the real clock. Before the first time: when dlqctl was installed here.';

create table dlq.settings (
  singleton boolean not null default true,
  installed_at timestamptz not null default now(),
  system_identifier bigint not null,
  database_oid oid not null,
  cycle_minutes integer not null default 5,
  cycle_budget interval not null default '4 minutes',
  retry_schedule interval[] not null default '{5 min,15 min,1 h,4 h,12 h}',
  probe_schedule interval[] not null default '{1 min,2 min,4 min,8 min,15 min}',
  jitter double precision not null default 0.1,
  max_unanswered integer not null default 10,
  max_in_flight integer not null default 1000,
  outage_patience interval not null default '3 days',
  replay_window interval not null default '7 days',
  retain_settled interval default '30 days',
  retain_failed interval,
  retain_runs interval default '30 days',
  retain_audit interval,
  maintain_at time not null default '03:17',
  maintain_budget interval not null default '10 minutes',
  endpoints_have_schedules boolean not null default false,
  constraint settings_pkey primary key (singleton),
  constraint there_is_one_row check (singleton),
  constraint cycle_divides_the_hour check (cycle_minutes between 1 and 30 and 60 % cycle_minutes = 0),
  constraint cycle_budget_is_bounded check (cycle_budget between '1 second' and '1 hour'),
  constraint jitter_is_a_share check (jitter between 0 and 1),
  constraint max_unanswered_is_positive check (max_unanswered >= 1),
  constraint max_in_flight_is_bounded check (max_in_flight between 1 and 100000),
  constraint outage_patience_is_not_negative check (outage_patience >= '0'),
  constraint replay_window_is_not_negative check (replay_window >= '0'),
  -- dlq.receive_webhook() knows a replay by the entry that it repeats.
  constraint entries_outlive_the_replay_window check (least(retain_settled, retain_failed) >= replay_window),
  constraint retain_settled_is_a_day_or_more check (retain_settled >= '1 day'),
  constraint retain_failed_is_a_day_or_more check (retain_failed >= '1 day'),
  constraint retain_runs_is_a_day_or_more check (retain_runs >= '1 day'),
  -- So that nobody can shorten it and be off the record at once.
  constraint retain_audit_is_a_quarter_or_more check (retain_audit >= '90 days'),
  constraint maintain_budget_is_bounded check (maintain_budget between '1 second' and '6 hours'),
  constraint retry_schedule_is_waits check (
    cardinality(retry_schedule) between 1 and 50 and array_position(retry_schedule, null) is null
    and interval '0' < all (retry_schedule) and interval '30 days' >= all (retry_schedule)),
  constraint probe_schedule_is_waits check (
    cardinality(probe_schedule) between 1 and 50 and array_position(probe_schedule, null) is null
    and interval '0' < all (probe_schedule) and interval '1 day' >= all (probe_schedule))
);
alter table dlq.settings enable row level security;
insert into dlq.settings (system_identifier, database_oid)
select c.system_identifier, d.oid
from pg_catalog.pg_control_system() as c, pg_catalog.pg_database as d
where d.datname = current_database();

comment on table dlq.settings is 'The settings: one row.';
comment on column dlq.settings.singleton is 'Always true: there is one row.';
comment on column dlq.settings.installed_at is 'When dlqctl was installed here.';
comment on column dlq.settings.system_identifier is 'Of the server that is production. Elsewhere (a restored dump, a clone) nothing is called.';
comment on column dlq.settings.database_oid is 'Of the database that is production.';
comment on column dlq.settings.cycle_minutes is 'The cron job runs every so many minutes: a divisor of 60, up to 30. Takes effect with dlqctl migrate.';
comment on column dlq.settings.cycle_budget is 'A run stops handing out work after this time, or earlier: see dlq.run_cycle().';
comment on column dlq.settings.retry_schedule is 'The waits before each retry; their number is the number of retries.';
comment on column dlq.settings.probe_schedule is
'The waits before each probe of an open circuit. The last one goes on.';
comment on column dlq.settings.jitter is 'A wait is lengthened by a random share of itself, up to this.';
comment on column dlq.settings.max_unanswered is 'An entry with so many unanswered attempts is failed.';
comment on column dlq.settings.max_in_flight is 'With a sender other than pg_net: at most so many requests under way in all. pg_net''s own batch size decides there.';
comment on column dlq.settings.outage_patience is
'Failures of an endpoint that has failed for longer use up retries again, so that its entries come to an end: they are failed.';
comment on column dlq.settings.replay_window is
'For so long dlq.receive_webhook() takes the same signed webhook for a duplicate. WhatsApp delivers again for 7 days.';
comment on column dlq.settings.retain_settled is
$$dlq.maintain() removes delivered and discarded entries this long after settled_at, with their attempts. Null: never.
At least replay_window. An idempotency key is forgotten with its entry.$$;
comment on column dlq.settings.retain_failed is 'The same for failed entries. Null, as it is unless you say otherwise: they stay.';
comment on column dlq.settings.retain_runs is
'For so long rows of dlq_processing_log, dlq.maintenance_log, dlq.replays, resolved ones of dlq.alerts, ours of cron.job_run_details and the
hours of dlq.attempt_counts are kept. Null: for ever.';
comment on column dlq.settings.retain_audit is
'For so long acts are kept in dlq.audit_log: at least 90 days. Null, as it is unless you say otherwise: for ever.';
comment on column dlq.settings.maintain_at is
'When dlq.maintain() runs every day, by pg_cron''s clock: GMT, unless cron.timezone says otherwise. Takes effect with dlqctl migrate.';
comment on column dlq.settings.maintain_budget is 'dlq.maintain() stops after this time, or earlier: see dlq._maintenance_budget().';
comment on column dlq.settings.endpoints_have_schedules is
'Kept by a trigger: whether an endpoint has ever had a retry_schedule of its own, so that storing a webhook must look for it.';

create table dlq.audit_log (
  id bigint generated always as identity,
  at timestamptz not null,
  login text not null,
  role text not null,
  subject text,
  action text not null,
  object text not null,
  key text,
  reason text,
  before jsonb,
  after jsonb,
  constraint audit_log_pkey primary key (id)
);
alter table dlq.audit_log enable row level security;
create index audit_log_key on dlq.audit_log (key) where key is not null;

comment on table dlq.audit_log is
$$One act of a person, or one change of the configuration. Nobody updates or deletes it, and only triggers and verbs write it.
It shows names, times, states and settings. Anything else (a payload, a phone number, an error's text) is a keyed digest, and a
secret's value is not there at all, so that whatever must be erased elsewhere is not here.$$;
comment on column dlq.audit_log.id is 'Ascending, with gaps.';
comment on column dlq.audit_log.at is 'When the statement began, by the real clock: the same for all rows that it changed.';
comment on column dlq.audit_log.login is 'Who logged in (session_user). Only a superuser can feign it, by set session authorization.';
comment on column dlq.audit_log.role is
'Whom they acted as (set role), which is one of the roles that login may be. With PostgREST: the role of the token.';
comment on column dlq.audit_log.subject is
'The subject of the token, by the setting request.jwt.claims: what PostgREST says. Whoever is not behind it can set that to anything.';
comment on column dlq.audit_log.action is 'insert, update, delete, truncate, or the name of a verb, such as pause.';
comment on column dlq.audit_log.object is 'The table that it was done to.';
comment on column dlq.audit_log.key is 'Which row of it: an entry''s id, a service, a secret''s name. Null for a whole table and for dlq.settings.';
comment on column dlq.audit_log.reason is 'Why, where somebody was asked.';
comment on column dlq.audit_log.before is 'The columns that changed, as they were; all of them for a delete. hmac:… is a keyed digest.';
comment on column dlq.audit_log.after is 'The columns that changed, as they became; all of them for an insert.';

create table dlq.audit_key (
  singleton boolean not null default true,
  value bytea not null,
  constraint audit_key_pkey primary key (singleton),
  constraint there_is_one_row check (singleton),
  constraint value_is_two_blocks check (octet_length(value) = 128)
);
alter table dlq.audit_key enable row level security;
-- gen_random_uuid() is the strong randomness that is built in: 122 bits each, in 64 bytes for each of the two hashes.
insert into dlq.audit_key (value)
select string_agg(uuid_send(gen_random_uuid()), '') from generate_series(1, 8);

comment on table dlq.audit_key is
$$The key of the digests in dlq.audit_log: one row. Nobody but dlq_owner reads it. With another key, or without, earlier digests
are numbers that nobody can compare with anything.$$;
comment on column dlq.audit_key.singleton is 'Always true: there is one row.';
comment on column dlq.audit_key.value is 'Random: 64 bytes for the inner hash of an HMAC-SHA256, and 64 for the outer one.';

-- What to say to somebody who breaks one of these: dlq.set_endpoint() gives it as the hint.
comment on constraint service_is_a_slug on dlq.endpoints is
'service: 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or a digit; or * for the template.';
comment on constraint url_is_http on dlq.endpoints is
'url: http(s)://host[:port][/path][?query], without user information, blanks or letters beyond ASCII.';
comment on constraint health_url_is_http on dlq.endpoints is
'health_url: http(s)://host[:port][/path][?query], without user information, blanks or letters beyond ASCII.';
comment on constraint https_unless_allowed on dlq.endpoints is
'Use https, or say allow_http => true (dlqctl endpoints set --allow-http): the payload then crosses the network in the clear.';
comment on constraint public_unless_allowed on dlq.endpoints is
'Name a public host, or say allow_private => true (dlqctl endpoints set --allow-private): whoever may set an endpoint then reaches what the database server reaches. In the template, {service} must not be the end of the host.';
comment on constraint template_names_the_service on dlq.endpoints is
'The url of * must contain {service}, and no other may.';
comment on constraint timeout_is_bounded on dlq.endpoints is 'timeout_ms: 1 to 30000 milliseconds.';
comment on constraint max_in_flight_is_bounded on dlq.endpoints is 'max_in_flight: 1 to 10000.';
comment on constraint headers_are_an_object on dlq.endpoints is 'headers: a JSON object, {"name": "value", ...}.';
comment on constraint headers_are_sendable on dlq.endpoints is
'headers: names and string values without control characters; not Host, Content-Type, Content-Length, Transfer-Encoding, User-Agent, webhook-id, Idempotency-Key, dlq-entry or dlq-attempt.';
comment on constraint signing_is_known on dlq.endpoints is 'signing: x-hub-signature-256 or standard-webhooks.';
comment on constraint signing_has_secrets on dlq.endpoints is
'signing and secret_names go together: for example x-hub-signature-256 and {WHATSAPP_APP_SECRET}; up to ten names.';
comment on constraint auth_is_known on dlq.endpoints is 'auth: bearer, apikey or both.';
comment on constraint auth_has_a_secret on dlq.endpoints is 'auth and auth_secret go together: for example bearer and SERVICE_ROLE_KEY.';
comment on constraint body_is_known on dlq.endpoints is 'body: json or raw.';
comment on constraint retry_schedule_is_waits on dlq.endpoints is
'retry_schedule: 1 to 50 waits, each longer than nothing and at most 30 days, for example {5 min,1 h}.';

-- The same for dlq.set_alert_rule() and dlq.set_alert_channel().
comment on constraint hold_is_bounded on dlq.alert_rules is 'hold: up to 1 day.';
comment on constraint quiet_is_bounded on dlq.alert_rules is 'quiet: up to 1 day.';
comment on constraint longer_than_is_bounded on dlq.alert_rules is 'threshold: 1 minute to 30 days, for example ''15 minutes''.';
comment on constraint more_than_is_bounded on dlq.alert_rules is 'threshold: 0 to 10000.';
comment on constraint counts_and_ages_are_told_apart on dlq.alert_rules is
'pending and failed have a number, processor, answers, circuits, retention and overdue an interval, the others no threshold.';
comment on constraint processor_is_missed_within_a_day on dlq.alert_rules is 'threshold of processor: 1 minute to 1 day.';
comment on constraint severities_are_known on dlq.alert_rules is 'A severity is info, warning, error or critical.';
comment on constraint there_is_a_severity on dlq.alert_rules is
'A rule needs a severity at a warning or at an error. To raise nothing: dlqctl alerts set RULE --disable.';
comment on constraint runbook_is_a_place on dlq.alert_rules is 'runbook: a URL, or a path; without blanks.';
comment on constraint name_is_a_slug on dlq.alert_channels is
'name: 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or a digit.';
comment on constraint kind_is_known on dlq.alert_channels is 'kind: pagerduty, slack or webhook.';
comment on constraint url_is_http on dlq.alert_channels is
'url: http(s)://host[:port][/path][?query], without user information, blanks or letters beyond ASCII.';
comment on constraint pagerduty_has_a_key on dlq.alert_channels is
'PagerDuty needs the name of the secret that holds the integration''s routing key: dlqctl alerts channel set NAME --secret PAGERDUTY_KEY.';
comment on constraint secret_has_a_place on dlq.alert_channels is
'Slack''s secret is the part of its URL that is secret: https://hooks.slack.com/services/{secret}.';
comment on constraint url_has_its_secret on dlq.alert_channels is 'The url contains {secret}: name the secret that stands there, with --secret.';
comment on constraint severities_are_known on dlq.alert_channels is 'severities: some of critical, error, warning and info.';
comment on constraint https_unless_allowed on dlq.alert_channels is 'Use https, or say allow_http => true (--allow-http).';
comment on constraint public_unless_allowed on dlq.alert_channels is
'Name a public host, or say allow_private => true (--allow-private): whoever may set a channel then reaches what the database server reaches.';

alter table dlq.alembic_version enable row level security;
comment on table dlq.alembic_version is 'The revision of the tables. Functions, views, triggers, policies and grants have none: they are compared.';
comment on column dlq.alembic_version.version_num is 'The last revision that this database has.';
comment on schema dlq is 'dlqctl: the dead-letter queue''s code and its inner tables. What people name is in public.';
