-- One pass: gives back what is lost, settles what is answered, hands out what is due. All in the caller's transaction,
-- for callers who are inside one (PostgREST, a trigger). What it hands out is sent after the commit, and settled by
-- the next pass. The scheduled job calls dlq.run_cycle(), which waits for the answers.
create or replace function public.process_dlq_entries()
returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.dlq_processing_log;
begin
  if not dlq._engine_lock() then
    return jsonb_build_object('status', 'busy', 'processed', 0, 'failed', 0, 'dispatched', 0, 'unanswered', 0);
  end if;
  v_run.id := dlq._begin_run();
  perform dlq._step(v_run.id, 'requeue_lost');
  perform dlq._step(v_run.id, 'collect_responses');
  perform dlq._step(v_run.id, 'dispatch_due');
  v_run := dlq._end_run(v_run.id);
  return jsonb_strip_nulls(jsonb_build_object(
    'status', v_run.status,
    'processed', v_run.entries_processed,
    'failed', v_run.entries_failed,
    'dispatched', v_run.dispatched,
    'unanswered', v_run.unanswered,
    'run', v_run.id,
    'error', v_run.error_message));
end
$$;

comment on function public.process_dlq_entries() is
$$One pass over the queue, in the caller's transaction: settles what was answered, sends what is due.
Returns {"status": "ok" | "error" | "busy", "processed", "failed", "dispatched", "unanswered", "run"?, "error"?}.$$;
