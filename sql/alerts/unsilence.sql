-- Ends a silence. What is raised is told at the next evaluation. False if there was none.
create or replace function dlq.unsilence(rule text, reason text default null)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_old jsonb;
  v_until timestamptz;
begin
  delete from dlq.alert_silences as s
  where s.rule = unsilence.rule
  returning to_jsonb(s), s.silenced_until into v_old, v_until;
  if not found then
    return false;
  end if;
  perform dlq._audit(
    'unsilence', 'dlq.alert_silences', unsilence.rule, unsilence.reason, v_old, null,
    '{rule,silenced_at,silenced_until,silenced_by,reason}');
  return v_until > dlq._now();
end
$$;

comment on function dlq.unsilence(text, text) is 'Ends the silence of a rule, or that of all (*), for a reason. False if there was none.';
