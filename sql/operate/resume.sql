-- Ends the pause of a service, or the pause of everything. Each ends only its own: a service that was paused by
-- name stays paused when everything is resumed. False if there was nothing to end.
create or replace function dlq.resume(service text default null)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_service text := coalesce(resume.service, '*');
  v_old jsonb;
  v_new jsonb;
begin
  perform dlq._check_service(resume.service);
  select to_jsonb(s) into v_old
  from dlq.endpoint_state as s
  where s.service = v_service and s.paused_at is not null
  for update;
  if not found then
    return false;
  end if;
  update dlq.endpoint_state as s
  set paused_at = null, paused_until = null, paused_by = null, pause_reason = null
  where s.service = v_service
  returning to_jsonb(s) into v_new;
  perform dlq._audit(
    'resume', 'dlq.endpoint_state', v_service, null, v_old, v_new, '{service,paused_at,paused_until,paused_by,pause_reason}');
  return true;
end
$$;

comment on function dlq.resume(text) is
'Ends the pause of a service, or the pause of everything if null. False if there was none. WD002: no such name.';
