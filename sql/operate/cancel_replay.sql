-- Takes back what of a replay has not been tried yet: these entries are again what they were. What has been tried, is being sent,
-- or was moved since by anybody else, stays as it is. It waits for entries that somebody has locked; what the processor is about
-- to send is sent.
-- One transaction; with at_once, so many of them, those that were stored last first, since what was stored first is tried first.
create or replace function dlq.cancel_replay(id bigint, reason text, at_once integer default null)
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off set enable_sort = off
as $$
declare
  v_ids uuid[];
  v_entries integer;
begin
  perform dlq._check_reason(cancel_replay.reason, format('select dlq.cancel_replay(%L, ''it fails again'')', cancel_replay.id));
  if cancel_replay.at_once not between 1 and 100000 then
    raise exception using
      errcode = 'WD002', message = format('%s entries cannot be put back at once', cancel_replay.at_once),
      detail = 'Nothing was changed.', hint = 'at_once: 1 to 100000; null: all of them.';
  end if;
  perform from dlq.replays as r where r.id = cancel_replay.id for update;
  if not found then
    raise exception using
      errcode = 'WD002', message = format('there is no replay %s', coalesce(cancel_replay.id::text, 'null')),
      detail = 'Nothing was changed.', hint = 'To find it: dlqctl replay list, or select * from dlq.replay_progress.';
  end if;

  -- Each entry by its id alone, whatever statistics say: a replay has just made all of them pending and due at once, and the index of
  -- what is due, which statistics still have as empty, would be read whole for each. "offset" keeps them look-ups, in the order of the key.
  v_ids := array(
    select x.entry_id
    from dlq.replayed_entries as x
      cross join lateral (
        select w.status, w.next_retry_at, w.attempt_count from public.webhook_dlq as w where w.id = x.entry_id offset 0) as e
    where x.replay_id = cancel_replay.id and not x.put_back
      and e.status = 'pending' and e.next_retry_at = x.due_at and e.attempt_count = x.attempt_count
    order by x.entry_id desc
    limit cancel_replay.at_once);

  with held as materialized (
    select x.*
    from (select u.id from unnest(v_ids) as u (id) order by u.id) as o
      cross join lateral (
        select r.* from dlq.replayed_entries as r where r.replay_id = cancel_replay.id and r.entry_id = o.id offset 0) as x
      cross join lateral (
        select w.status, w.next_retry_at, w.attempt_count from public.webhook_dlq as w where w.id = o.id for update offset 0) as e
    where e.status = 'pending' and e.next_retry_at = x.due_at and e.attempt_count = x.attempt_count
  ),
  noted as (
    update dlq.replayed_entries as x set put_back = true from held as h where x.replay_id = h.replay_id and x.entry_id = h.entry_id
  ),
  moved as (
    update public.webhook_dlq as e
    set
      status = h.status,
      next_retry_at = h.next_retry_at,
      settled_at = h.settled_at,
      retry_count = h.retry_count,
      unanswered_count = h.unanswered_count,
      updated_at = dlq._now()
    from held as h
    where e.id = h.entry_id
  )
  select count(*) into v_entries from held;
  if v_entries > 0 then
    update dlq.replays as r
    set cancelled_at = dlq._now(), cancelled_by = session_user
    where r.id = cancel_replay.id;
    perform dlq._audit(
      'cancel_replay', 'dlq.replays', cancel_replay.id::text, cancel_replay.reason, null,
      jsonb_build_object('entries', v_entries), '{entries}');
  end if;
  return v_entries;
end
$$;

comment on function dlq.cancel_replay(bigint, text, integer) is
$$Puts back what of a replay has not been tried since, for a reason, and returns how many entries: all of them, or at most at_once, those
that were stored last; 0, and nothing changes: none was left. WD002: no reason, or no such replay.$$;
