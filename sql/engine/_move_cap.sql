-- The circuit breaker: how many requests an endpoint may have under way, by how the last ones went. Of one pass and service:
--
--   at least as much went well as failed   cap doubles, from 0 to 1, up to the endpoint's max_in_flight
--   more failed                            its entries become suspects; three different ones halve cap
--   halved to 0, or a probe failed         the circuit is open: the next probe by dlq.settings.probe_schedule, or when a
--                                          Retry-After says, if that is later
--
-- Different ones, since one poison entry says nothing of an endpoint. What fails for longer than outage_patience is not opened
-- (again): otherwise entries that nobody can deliver would wait for ever.
-- The row is the processor's alone. Where somebody has it locked, the answers of this pass are not counted.
create or replace function dlq._move_cap(
  service text, well integer, suspects uuid[], timed_out integer, trouble text, wait interval
)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_most integer := (select r.max_in_flight from dlq._route(_move_cap.service) as r);
  v_failed integer := cardinality(_move_cap.suspects);
  v_settings dlq.settings := (select s from dlq.settings as s);
  v_old dlq.endpoint_state;
  v_new dlq.endpoint_state;
begin
  select s.* into v_old from dlq.endpoint_state as s where s.service = _move_cap.service for update skip locked;
  if not found then
    if v_failed = 0 or exists (select from dlq.endpoint_state as s where s.service = _move_cap.service) then
      return;  -- all is well, or somebody has it locked
    end if;
    insert into dlq.endpoint_state as s (service) values (_move_cap.service) returning s.* into v_old;
  end if;
  v_new := v_old;

  if well > 0 and well >= v_failed then
    v_new.failing_since := null;
    v_new.suspects := '{}';
    if v_new.cap is not null then
      v_new.cap := greatest(1, 2 * v_new.cap);
      v_new.cap_changed_at := clock_timestamp();
    end if;
  elsif v_failed > 0 then
    v_new.failing_since := coalesce(v_new.failing_since, dlq._now());
    v_new.trouble := _move_cap.trouble;
    v_new.suspects := array(select unnest(v_new.suspects) union select unnest(_move_cap.suspects));
    if v_new.cap = 0 or cardinality(v_new.suspects) >= 3 then
      v_new.cap := least(v_new.cap, v_most) / 2;
      v_new.cap_changed_at := clock_timestamp();
      v_new.suspects := '{}';
      if v_new.cap = 0 and v_new.failing_since <= dlq._now() - v_settings.outage_patience then
        v_new.cap := 1;
      end if;
      if v_new.cap = 0 then
        v_new.trips := v_new.trips + 1;
        v_new.probe_at := dlq._now()
          + greatest(v_settings.probe_schedule[least(v_new.trips, cardinality(v_settings.probe_schedule))], _move_cap.wait);
      end if;
    end if;
  end if;
  if v_new.cap >= v_most then
    v_new.cap := null;
    v_new.trips := 0;
  end if;

  if timed_out > well then
    v_new.timed_out_at := clock_timestamp();
  elsif well > 0 then
    v_new.timed_out_at := null;
  end if;

  if v_new.cap is null and v_new.failing_since is null and v_new.timed_out_at is null then
    delete from dlq.endpoint_state as s where s.service = _move_cap.service;
  elsif v_new is distinct from v_old then
    update dlq.endpoint_state as s
    set
      failing_since = v_new.failing_since,
      probe_at = v_new.probe_at,
      cap_changed_at = v_new.cap_changed_at,
      timed_out_at = v_new.timed_out_at,
      cap = v_new.cap,
      trips = v_new.trips,
      trouble = v_new.trouble,
      suspects = v_new.suspects
    where s.service = _move_cap.service;
  end if;
end
$$;

comment on function dlq._move_cap(text, integer, uuid[], integer, text, interval) is
$$Moves a service's cap by how a pass went: how many answers speak for its endpoint, which entries' against it, how many requests
timed out, what the trouble was, and the longest wait that was asked for.$$;
