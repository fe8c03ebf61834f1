-- What becomes of an entry, and what stands in its way: first a row for the state that it is in, then one for everything that
-- keeps it from being sent now. Reads what dlq.circuits reads, with the caller's rights, and shows nothing personal.
create or replace function dlq.what_next(id uuid)
returns table (what text, at timestamptz, detail text, remediation text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_entry record;
  v_circuit record;
  v_settings record;
  v_retries integer;
begin
  select e.* into v_entry from dlq.entries as e where e.id = what_next.id;
  if not found then
    raise exception using
      errcode = 'WD002',
      message = format('there is no entry %s', coalesce(what_next.id::text, 'null')),
      hint = 'To find it: dlqctl list, or select * from dlq.entries.';
  end if;
  select s.*, dlq._now() as now into v_settings from dlq.settings as s;
  v_retries := coalesce(
    (
      select cardinality(coalesce(n.retry_schedule, v_settings.retry_schedule))
      from dlq.endpoints as n
      where n.service in (v_entry.service, '*')
      order by n.service = '*'
      limit 1),
    cardinality(v_settings.retry_schedule));

  what := v_entry.status;
  if v_entry.erased_at is not null then
    at := v_entry.erased_at;
    detail := 'its body was erased: it cannot be sent again';
    return next;
    return;
  end if;
  case v_entry.status
    when 'reprocessed' then
      at := v_entry.settled_at;
      detail := 'it was delivered: nothing follows';
      remediation := format('to send it once more: dlqctl redeliver %s --reason WHY', v_entry.id);
    when 'processing' then
      at := v_entry.last_retry_at;
      detail := 'it is with the sender: its answer, or that there is none, decides';
      remediation := format('wait for it: dlqctl show %s', v_entry.id);
    when 'failed' then
      at := v_entry.settled_at;
      detail := format('%s: it stays until a person sees to it', case
        when v_entry.last_status_code = 410 then 'the answer was 410, Gone'
        when v_entry.unanswered_count >= v_settings.max_unanswered then
          format('%s attempts went without an answer', v_entry.unanswered_count)
        when v_entry.retry_count >= v_retries then format('its retries are used up, %s of %s', v_entry.retry_count, v_retries)
        else 'it was given up'
      end);
      remediation := format('mend what refuses it, then: dlqctl retry %s --reason WHY', v_entry.id);
    when 'discarded' then
      at := v_entry.settled_at;
      if v_entry.duplicate_of is not null then
        detail := format('it is the echo of %s, which is retried in its stead', v_entry.duplicate_of);
        remediation := format('dlqctl show %s', v_entry.duplicate_of);
      else
        detail := 'a person has dropped it: nothing follows';
        remediation := format('to send it after all: dlqctl retry %s --reason WHY', v_entry.id);
      end if;
    else
      at := v_entry.next_retry_at;
      -- Somebody may have shortened the schedule since: then the next try is the last.
      detail := format('try %s of %s: due %s', v_entry.retry_count + 1, greatest(v_retries, v_entry.retry_count + 1),
        case when v_entry.next_retry_at <= v_settings.now then 'since then' else 'then' end);
      remediation := case when v_entry.next_retry_at > v_settings.now then
        format('to send it now: dlqctl retry %s --reason WHY', v_entry.id) end;
  end case;
  return next;
  if v_entry.status <> 'pending' then
    return;
  end if;

  at := null;
  select c.* into v_circuit from dlq.circuits as c where c.service = v_entry.service;
  if dlq._why_not_sending() is not null then
    what := 'no sender';
    detail := dlq._why_not_sending();
    remediation := 'dlqctl health';
    return next;
  end if;
  if v_circuit.paused_at is not null then
    what := 'paused';
    at := v_circuit.paused_at;
    detail := format('by %s%s: %s', v_circuit.paused_by,
      ' until ' || date_trunc('second', v_circuit.paused_until), v_circuit.pause_reason);
    remediation := case
      when exists (
        select from dlq.pauses as p
        where p.service = v_entry.service and (p.paused_until is null or p.paused_until > v_settings.now))
      then format('dlqctl resume %s', v_entry.service) else 'dlqctl resume' end;
    return next;
  end if;
  at := null;
  if v_circuit.state = 'no endpoint' then
    what := 'no endpoint';
    detail := format('nobody has said where to retry %s', v_entry.service);
    remediation := format('dlqctl endpoints set %s URL', v_entry.service);
    return next;
    return;
  end if;
  if not (
    select n.enabled from dlq.endpoints as n where n.service in (v_entry.service, '*') order by n.service = '*' limit 1)
  then
    what := 'disabled';
    detail := format('the endpoint of %s is switched off', v_entry.service);
    remediation := format('dlqctl endpoints set %s URL --enable', v_entry.service);
    return next;
  end if;
  if dlq._missing_secret(v_entry.service) is not null then
    what := 'no secret';
    detail := dlq._missing_secret(v_entry.service);
    remediation := 'dlqctl secrets list';
    return next;
  end if;
  if v_circuit.cap = 0 then
    what := 'circuit open';
    at := v_circuit.probe_at;
    detail := format('%s fails since %s (%s): at this time one entry is sent to see whether it is back', v_entry.service,
      date_trunc('second', v_circuit.failing_since), v_circuit.trouble);
    remediation := format('mend the endpoint; at once: dlqctl endpoints reset %s --reason WHY', v_entry.service);
    return next;
  elsif v_circuit.cap < v_circuit.max_in_flight then
    what := 'held back';
    detail := format('%s comes back from trouble: at most %s of its requests at a time instead of %s', v_entry.service, v_circuit.cap,
      v_circuit.max_in_flight);
    remediation := null;
    return next;
  end if;
  at := null;
  select h.detail, h.remediation into detail, remediation
  from dlq.health as h
  where h.name = 'processor' and h.level = 'error';
  if found then
    what := 'no processor';
    return next;
  end if;
end
$$;

comment on function dlq.what_next(uuid) is
$$What becomes of an entry: first a row for its state (what is its status), then one for each thing that keeps it from being sent now:
no sender, paused, no endpoint, disabled, no secret, circuit open, held back, no processor. remediation: what to type. WD002: no such
entry.$$;
