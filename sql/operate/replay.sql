-- Sends many entries again: those that all of the filters match, the oldest first, up to max_entries. Each becomes due with a
-- fresh schedule, as by dlq.retry(): all now, or the nth of them n / per_minute minutes from now. That is the whole pace: the
-- processor knows nothing of replays, and what waits for its turn is pending like any other.
-- One transaction: all of it or nothing; with at_once, the oldest so many of it, and dlq.continue_replay() takes the next. Called
-- again it goes on with the next, since what is replayed is not failed any more. What has been delivered is sent again only if
-- status says reprocessed.
--
-- One replay at a time: of two at once the second would wait for the entries of the first, only to find them taken.
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
  per_minute integer default null,
  at_once integer default null
)
returns dlq.replays
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_digits text := regexp_replace(replay.phone_number, '\D', '', 'g');
  v_filters jsonb := jsonb_build_object(
    'service', replay.service, 'status', replay.status, 'created_after', replay.created_after,
    'created_before', replay.created_before, 'status_code', replay.status_code, 'error_text', replay.error_text,
    'phone_number', v_digits, 'max_entries', replay.max_entries);
  v_replay dlq.replays;
begin
  perform dlq._check_reason(replay.reason, 'select * from dlq.replay(''the handler is mended'', service => ''whatsapp'')');
  perform dlq._check_replay(
    replay.service, replay.status, replay.error_text, replay.phone_number, replay.max_entries, replay.per_minute, replay.at_once);
  perform pg_advisory_xact_lock(6581363);

  insert into dlq.replays (replayed_at, replayed_by, reason, filters, matched, entries, per_minute)
  values (
    dlq._now(), session_user, replay.reason,
    jsonb_strip_nulls(v_filters || jsonb_build_object('phone_number', dlq._keyed_digest(to_jsonb(v_digits)))),
    0, 0, replay.per_minute)
  returning * into v_replay;
  v_replay := dlq._replay_some(v_replay.id, v_digits, coalesce(replay.at_once, replay.max_entries));
  perform dlq._audit(
    'replay', 'dlq.replays', v_replay.id::text, replay.reason, null,
    v_filters || jsonb_build_object('per_minute', replay.per_minute, 'matched', v_replay.matched, 'entries', v_replay.entries),
    '{service,status,created_after,created_before,status_code,max_entries,per_minute,matched,entries}');
  return v_replay;
end
$$;

comment on function dlq.replay(text, text, text, timestamptz, timestamptz, integer, text, text, integer, integer, integer) is
$$Sends again what all of these filters match, for a reason: the oldest first, up to max_entries, per_minute at a time. status: failed,
pending, discarded or reprocessed. status_code, error_text (a part of it): of the last attempt. created_after: that time or later;
created_before: earlier. at_once: of max_entries so many, 100000 at most; the rest by dlq.continue_replay(). Returns its row of
dlq.replays. WD002: no reason, or a filter is not in order.$$;
