-- Writes dlq.in_flight anew when it holds more dead rows than live ones: what somebody's open transaction keeps vacuum from
-- removing. Every store and every pass looks through it, the dead rows too: after 40 s of 400 a second beside an open
-- transaction, to collect took four times as long, and to look for what is lost forty times.
-- Takes the table for itself, and not at all if that means to wait: storing an echo has rows of it locked. Its own
-- transaction, a few milliseconds long. Whoever waits for it takes its snapshot afterwards, and sees the rows. A repeatable read transaction
-- older than this sees none: an echo stored in one is known by its webhook-id or key alone, and refused there: dlq._mark_echo().
create or replace function dlq._compact_in_flight()
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_live dlq.in_flight[];
begin
  -- A row is about 200 bytes.
  if pg_relation_size('dlq.in_flight') < 262144
    or pg_relation_size('dlq.in_flight') < 400 * (select count(*) from dlq.in_flight)
    or not dlq._engine_lock()
  then
    return false;
  end if;
  begin
    lock table dlq.in_flight in access exclusive mode nowait;
  exception when lock_not_available then
    return false;
  end;
  v_live := array(select f from dlq.in_flight as f);
  truncate dlq.in_flight;
  insert into dlq.in_flight select f.* from unnest(v_live) as f;
  return true;
end
$$;

comment on function dlq._compact_in_flight() is
'Writes dlq.in_flight anew if dead rows have made it large. Whether it has: not if anybody else has it locked.';
