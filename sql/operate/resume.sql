-- Ends the pause of a service, or the pause of everything. Each ends only its own: a service that was paused by
-- name stays paused when everything is resumed. False if there was nothing to end.
create or replace function dlq.resume(service text default null, reason text default null)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_old jsonb;
begin
  perform dlq._check_service(resume.service);
  delete from dlq.pauses as p
  where p.service = coalesce(resume.service, '*')
  returning to_jsonb(p) into v_old;
  if not found then
    return false;
  end if;
  perform dlq._audit(
    'resume', 'dlq.pauses', v_old ->> 'service', resume.reason, v_old, null,
    '{service,paused_at,paused_until,paused_by,reason}');
  return true;
end
$$;

comment on function dlq.resume(text, text) is
'Ends the pause of a service, or the pause of everything if null, for a reason. False if there was none. WD002: no such name.';
