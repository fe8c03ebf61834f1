-- Opens the row of a maintenance run, and closes that of any other, which thereby ends: the row is the token. It goes on
-- looking for lost entries' attempts where the run before has stopped.
-- Waits for the batch of another run, which is short.
create or replace function dlq._begin_maintenance()
returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id bigint;
begin
  perform dlq._check_sight('maintenance');
  if dlq._is_production() is not true then
    raise exception using
      errcode = 'WD004',
      message = 'this is a copy of another database: nothing is removed',
      hint = 'If it is production now: dlqctl migrate --this-is-production';
  end if;

  perform set_config('lock_timeout', '1min', true);
  perform pg_advisory_xact_lock(6581362);
  update dlq.maintenance_log as l set status = 'interrupted' where l.status = 'running';
  insert into dlq.maintenance_log (began_at, seen_up_to)
  values (clock_timestamp(), (select l.seen_up_to from dlq.maintenance_log as l order by l.id desc limit 1))
  returning id into v_id;
  return v_id;
end
$$;

comment on function dlq._begin_maintenance() is
$$Opens the row of a run in dlq.maintenance_log, and returns its id. WD003: the queue cannot be seen. WD004: this is a copy.$$;
