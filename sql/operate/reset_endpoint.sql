-- Closes the circuit of a service: from the next pass on as much is sent as its endpoint allows. It opens again by itself if
-- the endpoint is not back. A pause that a person has made stays. False if there was nothing to reset.
create or replace function dlq.reset_endpoint(service text, reason text)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_old jsonb;
begin
  perform dlq._check_reason(reset_endpoint.reason, 'select dlq.reset_endpoint(''whatsapp'', ''the key is renewed'')');
  perform dlq._check_service(reset_endpoint.service);
  delete from dlq.endpoint_state as s
  where s.service = reset_endpoint.service
  returning to_jsonb(s) into v_old;
  if not found then
    return false;
  end if;
  perform dlq._audit(
    'reset_endpoint', 'dlq.endpoint_state', reset_endpoint.service, reset_endpoint.reason, v_old, null,
    '{service,cap,trips,failing_since,probe_at,cap_changed_at,timed_out_at,trouble,suspects}');
  return true;
end
$$;

comment on function dlq.reset_endpoint(text, text) is
'Closes the circuit of a service, for a reason. False if it was not open, half open or in trouble. WD002: no reason, or no such name.';
