-- What the cron job dlq-maintain calls: removes what is old, by the settings. Delivered and discarded entries with their
-- attempts; failed ones and acts of the audit only if a setting gives an age; runs, ours of pg_cron too.
-- Each batch is a transaction of its own, with its count in the run's row: a kill at any moment leaves nothing half done, and
-- the next run finds what is left. Nobody waits: rows that somebody has locked stay for the next run. The small tables come
-- first, so that they get their turn also while entries take all the time that there is.
-- Of two at once the later one takes over: the other's next batch finds its row closed, and ends.
-- As dlq.run_cycle() it commits, so it has the caller's rights and search_path, and calls functions by their full names.
create or replace procedure dlq.maintain()
language plpgsql
as $$
declare
  v_run bigint := dlq._begin_maintenance();
  v_cron_runs integer;
  v_step pg_catalog.text;
  v_after pg_catalog.timestamptz;
begin
  commit;
  v_cron_runs := dlq._remove_cron_runs();
  commit;
  foreach v_step in array '{runs,acts,entries,failed,attempts}'::pg_catalog.text[] loop
    v_after := '-infinity';
    while v_after is not null loop
      v_after := dlq._maintain_step(v_run, v_step, v_after);
      commit;
    end loop;
  end loop;
  perform dlq._end_maintenance(v_run, v_cron_runs);
end
$$;

comment on procedure dlq.maintain() is
$$Removes what is old, by the settings retain_settled, retain_failed, retain_runs and retain_audit. The cron job dlq-maintain
calls this. It commits: call it outside a transaction. Each run is a row of dlq.maintenance_log.
WD003: it cannot see the queue. WD004: this is a copy of production, and what it was made for may be what is old.$$;
