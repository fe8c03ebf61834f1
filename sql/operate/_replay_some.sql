-- Takes the next entries of a replay, the oldest first: up to at_once, and no more than its max_entries in all. One transaction, in
-- which the caller has locked the replay's row. The position is the last entry that it took: what was taken before, was sent
-- meanwhile and is again what the filters match, is not taken twice. The pace goes on behind that entry's, or from now if that is past.
-- It waits for whoever has locked an entry, and leaves alone what they have made of it; the processor passes by what it holds.
create or replace function dlq._replay_some(id bigint, phone_digits text, at_once integer)
returns dlq.replays
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
  v_replay dlq.replays;
  v_status text;
  v_after timestamptz;
  v_before timestamptz;
  v_status_code integer;
  v_from timestamptz := dlq._now();
  v_most integer;
  v_ids uuid[];
begin
  select * into v_replay from dlq.replays as r where r.id = _replay_some.id;
  v_status := v_replay.filters ->> 'status';
  v_after := v_replay.filters ->> 'created_after';
  v_before := v_replay.filters ->> 'created_before';
  v_status_code := v_replay.filters ->> 'status_code';
  v_most := least(_replay_some.at_once, (v_replay.filters ->> 'max_entries')::integer - v_replay.entries);
  select greatest(v_from, x.due_at) into v_from
  from (select) as one
    left join dlq.replayed_entries as x on x.replay_id = v_replay.id and x.entry_id = v_replay.last_entry_id;

  -- All that is left, by the index on what has failed or waits. Of very many that would be read too often: these are read in their
  -- order, from the position on, so that all parts together read what is stored once.
  if v_replay.matched - v_replay.entries <= 20 * _replay_some.at_once then
    with found as materialized (
      select r.id, r.created_at
      from dlq._replayable(
        v_replay.filters ->> 'service', v_status, greatest(v_after, v_replay.last_created_at), v_before, v_status_code,
        v_replay.filters ->> 'error_text', _replay_some.phone_digits) as r
      where v_replay.last_entry_id is null or (r.created_at, r.id) > (v_replay.last_created_at, v_replay.last_entry_id)
    )
    select
      case when v_replay.last_entry_id is null then (select count(*) from found) else v_replay.matched end,
      array(select f.id from found as f order by f.created_at, f.id limit v_most)
    into v_replay.matched, v_ids;
  else
    v_ids := array(
      select r.id
      from dlq._replayable(
        v_replay.filters ->> 'service', v_status, greatest(v_after, v_replay.last_created_at), v_before, v_status_code,
        v_replay.filters ->> 'error_text', _replay_some.phone_digits) as r
      where (r.created_at, r.id) > (v_replay.last_created_at, v_replay.last_entry_id)
      order by r.created_at, r.id
      limit v_most);
  end if;

  with held as materialized (
    select
      e.id, e.created_at, e.status, e.next_retry_at, e.settled_at, e.retry_count, e.unanswered_count, e.attempt_count
    from (select u.id from unnest(v_ids) as u (id) order by u.id) as o
      cross join lateral (  -- by the id alone: by statistics of before all that failed would be read
        select w.* from public.webhook_dlq as w where w.id = o.id for update offset 0) as e
    where e.status = v_status and e.erased_at is null
  ),
  paced as materialized (
    select
      h.*,
      v_from + coalesce(row_number() over (order by h.created_at, h.id) * interval '1 minute' / v_replay.per_minute, '0') as due_at
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
      updated_at = dlq._now()
    from paced as p
    where e.id = p.id
  ),
  last as (
    select p.created_at, p.id from paced as p order by p.created_at desc, p.id desc limit 1
  )
  update dlq.replays as r
  set
    matched = v_replay.matched,
    entries = r.entries + (select count(*) from paced),
    last_created_at = coalesce((select l.created_at from last as l), r.last_created_at),
    last_entry_id = coalesce((select l.id from last as l), r.last_entry_id)
  where r.id = v_replay.id
  returning * into v_replay;
  return v_replay;
end
$$;

comment on function dlq._replay_some(bigint, text, integer) is 'Takes the next entries of a replay, at most at_once, and returns its row.';
