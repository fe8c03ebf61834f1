-- Sends many entries again: those that all of the filters match, the oldest first, up to max_entries. Each becomes due with a
-- fresh schedule, as by dlq.retry(): all now, or the nth of them n / per_minute minutes from now. That is the whole pace: the
-- processor knows nothing of replays, and what waits for its turn is pending like any other.
-- One transaction: all of it or nothing. Called again it goes on with the next, since what is replayed is not failed any more.
-- What has been delivered is sent again only if status says reprocessed.
--
-- One replay at a time: of two at once the second would wait for the entries of the first, only to find them taken. It waits for
-- whoever has locked an entry, and leaves alone what they have made of it; the processor passes by what it holds.
create or replace function dlq.replay(
  reason text,
  service text default null,
  status text default 'failed',
  created_after timestamptz default null,
  created_before timestamptz default null,
  status_code integer default null,
  error_text text default null,
  phone_number text default null,
  max_entries integer default 1000,
  per_minute integer default null
)
returns dlq.replays
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
  v_now timestamptz := dlq._now();
  v_digits text := regexp_replace(replay.phone_number, '\D', '', 'g');
  v_filters jsonb := jsonb_build_object(
    'service', replay.service, 'status', replay.status, 'created_after', replay.created_after,
    'created_before', replay.created_before, 'status_code', replay.status_code, 'error_text', replay.error_text,
    'phone_number', v_digits, 'max_entries', replay.max_entries);
  v_replay dlq.replays;
  v_ids uuid[];
begin
  perform dlq._check_reason(replay.reason, 'select * from dlq.replay(''the handler is mended'', service => ''whatsapp'')');
  perform dlq._check_replay(
    replay.service, replay.status, replay.error_text, replay.phone_number, replay.max_entries, replay.per_minute);
  perform pg_advisory_xact_lock(6581363);

  with found as materialized (
    select r.id, r.created_at
    from dlq._replayable(
      replay.service, replay.status, replay.created_after, replay.created_before, replay.status_code, replay.error_text,
      v_digits) as r
  )
  select (select count(*) from found), array(select f.id from found as f order by f.created_at, f.id limit replay.max_entries)
  into v_replay.matched, v_ids;

  insert into dlq.replays (replayed_at, replayed_by, reason, filters, matched, entries, per_minute)
  values (
    v_now, session_user, replay.reason,
    jsonb_strip_nulls(v_filters || jsonb_build_object('phone_number', dlq._keyed_digest(to_jsonb(v_digits)))),
    v_replay.matched, 0, replay.per_minute)
  returning * into v_replay;

  with held as materialized (
    select
      e.id, e.created_at, e.status, e.next_retry_at, e.settled_at, e.retry_count, e.unanswered_count, e.attempt_count
    from public.webhook_dlq as e
    where e.id = any (v_ids) and e.status = replay.status and e.erased_at is null
    order by e.id
    for update
  ),
  paced as materialized (
    select
      h.*,
      v_now + coalesce(row_number() over (order by h.created_at, h.id) * interval '1 minute' / replay.per_minute, '0') as due_at
    from held as h
  ),
  noted as (
    insert into dlq.replayed_entries
      (replay_id, entry_id, due_at, status, next_retry_at, settled_at, retry_count, unanswered_count, attempt_count)
    select
      v_replay.id, p.id, p.due_at, p.status, p.next_retry_at, p.settled_at, p.retry_count, p.unanswered_count, p.attempt_count
    from paced as p
  ),
  moved as (
    update public.webhook_dlq as e
    set
      status = 'pending',
      next_retry_at = p.due_at,
      settled_at = null,
      retry_count = 0,
      unanswered_count = 0,
      updated_at = v_now
    from paced as p
    where e.id = p.id
  )
  select count(*) into v_replay.entries from paced;

  update dlq.replays as r set entries = v_replay.entries where r.id = v_replay.id;
  perform dlq._audit(
    'replay', 'dlq.replays', v_replay.id::text, replay.reason, null,
    v_filters || jsonb_build_object('per_minute', replay.per_minute, 'matched', v_replay.matched, 'entries', v_replay.entries),
    '{service,status,created_after,created_before,status_code,max_entries,per_minute,matched,entries}');
  return v_replay;
end
$$;

comment on function dlq.replay(text, text, text, timestamptz, timestamptz, integer, text, text, integer, integer) is
$$Sends again what all of these filters match, for a reason: the oldest first, up to max_entries, per_minute at a time. status: failed,
pending, discarded or reprocessed. status_code, error_text (a part of it): of the last attempt. created_after: that time or later;
created_before: earlier. Returns its row of dlq.replays. WD002: no reason, or a filter is not in order.$$;
