-- Ends the pause of a service, or the pause of everything. Each ends only its own: a service that was paused by
-- name stays paused when everything is resumed. False if there was nothing to end.
create or replace function dlq.resume(service text default null)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform dlq._check_service(resume.service);
  update dlq.endpoint_state as s
  set paused_at = null, paused_until = null, paused_by = null, pause_reason = null
  where s.service = coalesce(resume.service, '*') and s.paused_at is not null;
  return found;
end
$$;

comment on function dlq.resume(text) is
'Ends the pause of a service, or the pause of everything if null. False if there was none. WD002: no such name.';
