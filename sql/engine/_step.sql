-- One step of a run, recorded in the run's row within the same transaction. An error in the step undoes the step,
-- not the run: it is recorded there too, with its SQLSTATE, and the run ends after this pass.
-- The steps have jit off: over tables that are small, or that nobody has analyzed yet, compiling took ten times as long as running.
-- moved: how many entries the step has moved. claimed: for dispatch_due, what it returned in the last pass.
create or replace function dlq._step(run bigint, step text, inout claimed jsonb default null, out moved integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_dispatched integer := 0;
  v_delivered integer := 0;
  v_failed integer := 0;
  v_unanswered integer := 0;
  v_error text;
  v_state text;
begin
  begin
    case step
      when 'requeue_lost' then
        select r.unanswered into v_unanswered from dlq.requeue_lost() as r;
      when 'collect_responses' then
        select c.delivered, c.failed, c.unanswered into v_delivered, v_failed, v_unanswered from dlq.collect_responses() as c;
      when 'dispatch_due' then
        select d.dispatched, d.failed, d.claimed into v_dispatched, v_failed, claimed from dlq.dispatch_due(claimed) as d;
    end case;
  exception when others then
    get stacked diagnostics v_state = returned_sqlstate, v_error = message_text;
    v_error := format('%s %s: %s', v_state, step, v_error);
  end;

  moved := v_dispatched + v_delivered + v_failed + v_unanswered;
  if v_error is not null or moved > 0 then
    update public.dlq_processing_log as l
    set
      entries_processed = l.entries_processed + v_delivered,
      entries_failed = l.entries_failed + v_failed,
      dispatched = l.dispatched + v_dispatched,
      unanswered = l.unanswered + v_unanswered,
      error_message = coalesce(l.error_message, v_error),
      duration = clock_timestamp() - l.processed_at
    where l.id = run and l.status in ('running', 'interrupted');  -- a run that is closed is history
  end if;
end
$$;

comment on function dlq._step(bigint, text, jsonb) is
'Runs requeue_lost, collect_responses or dispatch_due, and records its counts or its error in the run''s row.';
