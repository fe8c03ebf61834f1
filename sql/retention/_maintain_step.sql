-- One batch of one step of a maintenance run, counted in the run's row within the same transaction. Returns where the next
-- batch begins, or null: the step is at its end, the time is up, or another run has taken over.
-- An error undoes the batch and ends the step, not the run: it is recorded with its SQLSTATE.
create or replace function dlq._maintain_step(run bigint, step text, after timestamptz)
returns timestamptz
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  c_batch constant integer := 10000;  -- of runs and acts, which are small
  v_run dlq.maintenance_log;
  v_next timestamptz;
  v_entries integer := 0;
  v_attempts integer := 0;
  v_seen integer := 0;
  v_runs integer := 0;
  v_acts integer := 0;
  v_up_to uuid;
  v_state text;
  v_error text;
begin
  -- Only what is not ours can make a batch wait: a table that goes with an entry (on delete cascade), or a user's trigger.
  perform set_config('lock_timeout', '1s', true);
  -- One at a time, and what has taken over meanwhile is seen. Not the engine's lock: nothing here concerns what is under way.
  perform pg_advisory_xact_lock(6581362);
  select l.* into v_run from dlq.maintenance_log as l where l.id = run and l.status = 'running';
  if not found then
    return null;
  end if;
  v_up_to := v_run.seen_up_to;
  if clock_timestamp() > v_run.began_at + dlq._maintenance_budget() then
    if step in ('entries', 'failed') then
      update dlq.maintenance_log as l
      set left_over = nullif(coalesce(l.left_over, 0) + dlq._count_left_over(step = 'failed', after), 0)
      where l.id = run;
    end if;
    return null;
  end if;

  begin
    case step
      when 'runs' then
        v_runs := dlq._remove_runs();
        v_next := case when v_runs >= c_batch then after end;
        perform dlq._fold_attempt_counts();
      when 'acts' then
        v_acts := dlq._remove_acts();
        v_next := case when v_acts >= c_batch then after end;
      when 'entries', 'failed' then
        select r.entries, r.attempts, r.after, r.error into v_entries, v_attempts, v_next, v_error
        from dlq._remove_entries(step = 'failed', after) as r;
      when 'attempts' then
        -- A thirtieth of them each day, so that it is once round in a month, whatever is stored.
        select r.up_to, r.seen, r.attempts into v_up_to, v_seen, v_attempts from dlq._remove_orphans(v_run.seen_up_to) as r;
        v_next := case when v_up_to is not null and v_run.attempts_seen + v_seen < (
          select c.reltuples / 30 from pg_class as c where c.oid = 'dlq.delivery_attempts'::regclass) then after end;
    end case;
  exception when others then
    get stacked diagnostics v_state = returned_sqlstate, v_error = message_text;
    v_error := format('%s %s: %s', v_state, step, v_error);
    v_next := null;
  end;

  update dlq.maintenance_log as l
  set
    entries = l.entries + v_entries,
    attempts = l.attempts + v_attempts,
    attempts_seen = l.attempts_seen + v_seen,
    runs = l.runs + v_runs,
    acts = l.acts + v_acts,
    seen_up_to = v_up_to,
    error_message = coalesce(l.error_message, v_error),
    duration = clock_timestamp() - l.began_at
  where l.id = run;
  return v_next;
end
$$;

comment on function dlq._maintain_step(bigint, text, timestamptz) is
$$Removes one batch of runs, acts, entries, failed (entries) or attempts (whose entry is gone), and records how many in the
run's row. Returns where the next batch begins; null if there is none.$$;
