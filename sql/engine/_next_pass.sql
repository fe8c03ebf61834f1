-- After a pass: in how many seconds the next one is due, or null, and the run is closed, when there is none: nothing
-- was sent and nothing is in flight, a step failed, or the budget is spent. The longer the youngest request has been
-- under way, the longer the wait: from 50 ms to a second, and not beyond the budget, so that the last pass has what is kept for it. In
-- between there is time to tidy dlq.in_flight.
create or replace function dlq._next_pass(run bigint, sent integer, budget interval)
returns double precision
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_youngest timestamptz := (select max(f.dispatched_at) from dlq.in_flight as f);
  v_run public.dlq_processing_log;
begin
  select l.* into v_run from public.dlq_processing_log as l where l.id = run;
  if v_run.error_message is not null
    or (sent = 0 and v_youngest is null)
    or clock_timestamp() > v_run.processed_at + budget
  then
    perform dlq._end_run(run);
    return null;
  end if;

  -- A sign of life, so that nobody takes a long wait for a dead run: see dlq._begin_run().
  if clock_timestamp() > v_run.processed_at + coalesce(v_run.duration, '0') + interval '10 seconds' then
    update public.dlq_processing_log as l set duration = clock_timestamp() - l.processed_at
    where l.id = run and l.status in ('running', 'interrupted');
  end if;
  perform dlq._compact_in_flight();
  return greatest(0.05, least(
    1, extract(epoch from clock_timestamp() - v_youngest) / 4, extract(epoch from v_run.processed_at + budget - clock_timestamp())));
end
$$;

comment on function dlq._next_pass(bigint, integer, interval) is
'In how many seconds a run''s next pass is due. Null, and the run is closed, if it was the last.';
