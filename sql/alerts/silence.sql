-- Nobody is told of a rule, or of all (*), until a time. The alerts are kept all the same; what is raised when the time is over is told
-- then, and what was told before is resolved as ever. To silence again replaces the time and the reason.
create or replace function dlq.silence(rule text, until timestamptz, reason text)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_old jsonb;
  v_new jsonb;
begin
  perform dlq._check_reason(silence.reason, 'select dlq.silence(''pending'', now() + interval ''2 hours'', ''a planned replay'')');
  if silence.until is null or silence.until <= dlq._now() or silence.until > dlq._now() + interval '30 days' then
    raise exception using
      errcode = 'WD002',
      message = 'a silence ends within 30 days',
      detail = 'Nothing was changed.',
      hint = 'To end one now: dlqctl alerts unsilence RULE. To be told of a rule no more: dlqctl alerts set RULE --disable.';
  end if;
  if silence.rule is distinct from '*' then
    perform dlq._check_rule(silence.rule);
  end if;
  select to_jsonb(s) into v_old from dlq.alert_silences as s where s.rule = silence.rule for update;
  insert into dlq.alert_silences as s (rule, silenced_at, silenced_until, silenced_by, reason)
  values (silence.rule, dlq._now(), silence.until, session_user, silence.reason)
  on conflict on constraint alert_silences_pkey do update
  set silenced_until = excluded.silenced_until, silenced_by = excluded.silenced_by, reason = excluded.reason
  returning to_jsonb(s) into v_new;
  perform dlq._audit(
    'silence', 'dlq.alert_silences', silence.rule, silence.reason, v_old, v_new,
    '{rule,silenced_at,silenced_until,silenced_by,reason}');
end
$$;

comment on function dlq.silence(text, timestamptz, text) is
'Has nobody told of a rule, or of all (*), until a time within 30 days. WD002: no reason, no time, or no such rule.';
