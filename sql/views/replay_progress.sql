-- What became of each replay. Of one, or of the last few: where id = …, order by id desc limit …; each reads its own entries.
-- An entry is looked up by its key, and as it is now: one that a later replay has taken shows in both.
create or replace view dlq.replay_progress
as
select
  r.id, r.replayed_at, r.replayed_by, r.reason, r.filters, r.matched, r.entries, r.per_minute, r.cancelled_at, r.cancelled_by,
  p.waiting, p.processing, p.reprocessed, p.retrying, p.failed, p.discarded, p.put_back, r.entries - p.there as removed,
  p.due, p.next_due_at, p.last_due_at
from dlq.replays as r
  cross join lateral (
    select
      count(*) filter (where s.is_waiting)::integer as waiting,
      count(*) filter (where s.is_waiting and s.next_retry_at <= dlq._now())::integer as due,
      count(*) filter (where s.status = 'processing')::integer as processing,
      count(*) filter (where s.status = 'reprocessed')::integer as reprocessed,
      count(*) filter (where s.status = 'pending' and not s.is_waiting)::integer as retrying,
      count(*) filter (where s.status = 'failed')::integer as failed,
      count(*) filter (where s.status = 'discarded')::integer as discarded,
      count(*) filter (where s.status = 'put back')::integer as put_back,
      count(*)::integer as there,
      min(s.next_retry_at) filter (where s.is_waiting) as next_due_at,
      max(s.next_retry_at) filter (where s.is_waiting) as last_due_at
    from (
      select
        case when x.put_back then 'put back' else e.status end as status,
        not x.put_back and e.status = 'pending' and e.attempt_count = x.attempt_count as is_waiting,
        e.next_retry_at
      from dlq.replayed_entries as x
        cross join lateral (  -- offset 0: as a join it might read the whole queue
          select w.status, w.next_retry_at, w.attempt_count from public.webhook_dlq as w where w.id = x.entry_id offset 0
        ) as e
      where x.replay_id = r.id
    ) as s
  ) as p;

comment on view dlq.replay_progress is
$$Each replay, and how many of its entries are: waiting (not tried since; due: of them, those due now), processing, reprocessed, retrying (tried since,
and pending again), failed, discarded, put_back (it was cancelled), removed (with their age). It is over when none is waiting or processing.$$;
comment on column dlq.replay_progress.id is 'As in dlq.replays.';
comment on column dlq.replay_progress.waiting is 'Of its entries, those not tried since.';
comment on column dlq.replay_progress.processing is 'Those that are being sent.';
comment on column dlq.replay_progress.reprocessed is 'Those delivered.';
comment on column dlq.replay_progress.retrying is 'Those tried since and pending again.';
comment on column dlq.replay_progress.failed is 'Those that have failed again.';
comment on column dlq.replay_progress.discarded is 'Those discarded since.';
comment on column dlq.replay_progress.put_back is 'Those that are again what they were: the replay was cancelled.';
comment on column dlq.replay_progress.removed is 'Those that are gone, with their age.';
comment on column dlq.replay_progress.due is 'Of those waiting, how many are due now.';
comment on column dlq.replay_progress.next_due_at is 'When the next of those waiting is due.';
comment on column dlq.replay_progress.last_due_at is 'When the last of them is due.';
