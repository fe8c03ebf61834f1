-- The half of dlq.evaluate_alerts() that sends: reads what was answered, and hands over what is due. For who waits for an answer.
create or replace function dlq.deliver_alerts()
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if not dlq._alerts_lock() then
    return 0;
  end if;
  perform dlq._read_alert_answers();
  return dlq._send_alerts();
end
$$;

comment on function dlq.deliver_alerts() is 'Reads the answers of channels, and sends them what is due. Returns how many it sent.';
