-- Stops what is sent to a service, or to all. Nothing else changes: webhooks come in, answers are collected, waiting
-- entries use up no retries. Pausing again replaces the reason.
create or replace function dlq.pause(reason text, service text default null, until timestamptz default null)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_service text := coalesce(pause.service, '*');
  v_old jsonb;
  v_new jsonb;
begin
  perform dlq._check_reason(pause.reason, 'select dlq.pause(''deploying'', ''whatsapp'')');
  perform dlq._check_service(pause.service);
  select to_jsonb(p) into v_old from dlq.pauses as p where p.service = v_service for update;
  insert into dlq.pauses as p (service, paused_at, paused_until, paused_by, reason)
  values (v_service, dlq._now(), pause.until, session_user, pause.reason)
  on conflict on constraint pauses_pkey do update
  set paused_until = excluded.paused_until, paused_by = excluded.paused_by, reason = excluded.reason
  returning to_jsonb(p) into v_new;
  perform dlq._audit(
    'pause', 'dlq.pauses', v_service, pause.reason, v_old, v_new, '{service,paused_at,paused_until,paused_by,reason}');
end
$$;

comment on function dlq.pause(text, text, timestamptz) is
'Stops what is sent to a service, or to all if null, until it is resumed or until a time. WD002: no reason, or no such name.';
