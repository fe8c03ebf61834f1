-- What the cron job dlq-alerts calls each minute: reads what the channels have answered, compares every rule with dlq.health, and
-- tells the channels of each edge. One transaction: an edge is recorded, queued and in flight, or nothing of it is, so a kill at any
-- moment loses none and tells none twice; the next minute does it again. Beside another, and on a copy of production, it does nothing.
-- Where the queue is hidden from us, that is told, and all else stays as it was told. Where tables of our own are, it raises.
-- With nothing wrong it writes one row, its heartbeat.
create or replace function dlq.evaluate_alerts(out raised integer, out changed integer, out resolved integer, out sent integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
  v_hidden text[] := dlq._hidden_tables();
begin
  if v_hidden <> '{}' and v_hidden <> '{public.webhook_dlq}' then
    raise exception using
      errcode = 'WD003',
      message = format('dlq.evaluate_alerts() cannot see %s', dlq._a_few(v_hidden)),
      hint = 'dlq_owner must own the tables, without FORCE ROW LEVEL SECURITY. Run: dlqctl migrate --check';
  end if;
  if dlq._is_production() is not true or not dlq._alerts_lock() then
    return;
  end if;
  perform dlq._read_alert_answers();
  select j.raised, j.changed, j.resolved into raised, changed, resolved from dlq._judge_rules(is_blind => v_hidden <> '{}') as j;
  perform dlq._queue_alerts();
  sent := dlq._send_alerts();
  update dlq.alert_evaluation as e set evaluated_at = clock_timestamp();
end
$$;

comment on function dlq.evaluate_alerts() is
$$Compares the rules of dlq.alert_rules with dlq.health, and has dlq.alert_channels told of what changed. The cron job dlq-alerts calls
this. Returns how many alerts were raised, changed and resolved, and how many requests were sent; nulls beside another, and on a copy
of production. WD003: it cannot see a table of its own.$$;
