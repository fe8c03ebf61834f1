-- The entries that filters match: dlq.preview_replay() and dlq.replay() ask the same here. Null matches everything.
-- status_code and error_text are of the entry's last attempt; error_text is any part of it, in any case, and nothing in it is a
-- wildcard; a phone number is compared by its digits. Not matched: echoes, what is erased, and what waits for another replay already.
-- What is failed or pending is found by its partial index, whatever is stored. The rest is looked up for each entry: as a join, the
-- planner might read all attempts instead.
-- Invoker's rights and no set clause, so that the planner can inline it and see the status; only definer functions call it.
create or replace function dlq._replayable(
  service text,
  status text,
  created_after timestamptz,
  created_before timestamptz,
  status_code integer,
  error_text text,
  phone_digits text
)
returns setof public.webhook_dlq
language sql stable
as $$
select e.*
from public.webhook_dlq as e
where e.status = _replayable.status
  and e.duplicate_of is null
  and e.erased_at is null
  and (_replayable.service is null or e.service = _replayable.service)
  and (_replayable.created_after is null or e.created_at >= _replayable.created_after)
  and (_replayable.created_before is null or e.created_at < _replayable.created_before)
  and (_replayable.phone_digits is null or regexp_replace(e.phone_number, '\D', '', 'g') = _replayable.phone_digits)
  and (
    _replayable.status_code is null
    or (select a.status_code from dlq.delivery_attempts as a where a.entry_id = e.id and a.attempt = e.attempt_count)
      = _replayable.status_code)
  and (
    _replayable.error_text is null
    or (
      select strpos(lower(a.error), lower(_replayable.error_text)) > 0
      from dlq.delivery_attempts as a
      where a.entry_id = e.id and a.attempt = e.attempt_count))
  and (
    _replayable.status <> 'pending'
    or (
      select x.replay_id
      from dlq.replayed_entries as x
      where x.entry_id = e.id and x.due_at = e.next_retry_at and x.attempt_count = e.attempt_count and not x.put_back
      limit 1) is null)
$$;

comment on function dlq._replayable(text, text, timestamptz, timestamptz, integer, text, text) is
'The entries that these filters of a replay match. Null matches everything.';
