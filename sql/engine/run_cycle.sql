-- What the cron job calls: passes over the queue until nothing is due and nothing in flight, or the budget is spent.
-- What is lost is looked for in the first pass and then every five seconds: it is given up after a minute at the earliest.
-- Each step is a transaction of its own, so a kill at any moment leaves nothing half done, and nobody waits for a
-- cycle. The run's row is committed first: if this ends without a word, the row says so.
-- Each is read committed, whatever the session says: in another isolation level a step would see the queue as it was
-- before it had the engine's lock.
-- A procedure that commits can neither be security definer nor carry a set clause: it runs with the caller's rights
-- and search_path. So it only calls functions, by their full names; they have their own.
create or replace procedure dlq.run_cycle()
language plpgsql
as $$
declare
  v_budget interval;
  v_run bigint;
  v_sent integer;
  v_claimed jsonb;
  v_wait double precision;
  v_look_at timestamptz := '-infinity';
begin
  commit;  -- only the first word of a transaction sets its isolation level; "and chain" keeps it
  set transaction isolation level read committed;
  v_budget := dlq._cycle_budget();
  v_run := dlq._begin_run();
  commit and chain;
  loop
    if pg_catalog.clock_timestamp() >= v_look_at then
      perform dlq._step(v_run, 'requeue_lost');
      commit and chain;
      v_look_at := pg_catalog.clock_timestamp() + interval '5 seconds';
    end if;
    perform dlq._step(v_run, 'collect_responses');
    commit and chain;
    select s.moved, s.claimed into v_sent, v_claimed from dlq._step(v_run, 'dispatch_due', v_claimed) as s;
    commit and chain;
    v_wait := dlq._next_pass(v_run, v_sent, v_budget);
    commit and chain;
    exit when v_wait is null;
    perform pg_catalog.pg_sleep(v_wait);
  end loop;
end
$$;

comment on procedure dlq.run_cycle() is
$$Passes over the queue until nothing is due and nothing in flight, or its budget is spent. The cron job calls this.
It commits: call it outside a transaction. Each run is a row of dlq_processing_log.$$;
