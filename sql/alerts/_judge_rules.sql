-- Compares every rule with its line in dlq.health, and moves its alert: raised when the line has been unwell for the rule's hold,
-- changed when it becomes more severe or of a service that is new to it, resolved when it has been well for the rule's quiet.
-- In between nothing is written, so what goes up and down each minute is one alert, and nobody is told of it twice.
-- is_blind: the queue is hidden from us, and the line processor alone says so; the others would call it empty.
-- The caller has the lock of alerts.
create or replace function dlq._judge_rules(is_blind boolean, out raised integer, out changed integer, out resolved integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := dlq._now();
  v_line record;
  v_alert dlq.alerts;
  v_subjects text[];
begin
  raised := 0;
  changed := 0;
  resolved := 0;
  for v_line in
    select
      r.name as rule, r.hold, r.quiet, h.detail, h.remediation,
      case
        when not r.enabled then null
        when h.level = 'error' then coalesce(r.severity_at_error, r.severity_at_warning)
        when h.level = 'warning' then r.severity_at_warning
      end as severity
    from dlq.alert_rules as r
      left join dlq.health as h on h.name = r.name
    where r.name = 'processor' or not is_blind
    order by r.name
  loop
    select a.* into v_alert from dlq.alerts as a where a.rule = v_line.rule and a.resolved_at is null;

    if v_line.severity is null then
      if v_alert.edge = 0 then
        delete from dlq.alerts as a where a.id = v_alert.id;
      elsif v_now - coalesce(v_alert.good_since, v_now) >= v_line.quiet then
        perform dlq._resolve_alert(v_alert.id);
        resolved := resolved + 1;
      elsif v_alert.good_since is null then
        update dlq.alerts as a set good_since = v_now where a.id = v_alert.id;
      end if;
      continue;
    end if;

    if v_alert.id is null then
      insert into dlq.alerts (since, rule, severity, detail, remediation)
      values (v_now, v_line.rule, v_line.severity, v_line.detail, v_line.remediation)
      returning * into v_alert;
    elsif v_alert.good_since is not null then
      update dlq.alerts as a set good_since = null where a.id = v_alert.id;
    end if;
    v_subjects := dlq._alert_subjects(v_line.rule);
    if v_alert.edge = 0 and v_now - v_alert.since >= v_line.hold
      or v_alert.edge > 0 and dlq._severity_rank(v_line.severity) > dlq._severity_rank(v_alert.severity)
      or v_alert.edge > 0 and exists (select unnest(v_subjects) except select unnest(v_alert.subjects))
    then
      update dlq.alerts as a
      set
        edge = a.edge + 1,
        raised_at = coalesce(a.raised_at, v_now),
        changed_at = case when a.raised_at is not null then v_now end,
        severity = case when a.edge > 0 and dlq._severity_rank(a.severity) > dlq._severity_rank(v_line.severity)
          then a.severity else v_line.severity end,
        detail = v_line.detail,
        remediation = v_line.remediation,
        subjects = array(select distinct s.service from unnest(a.subjects || v_subjects) as s (service) order by s.service)
      where a.id = v_alert.id;
      raised := raised + (v_alert.edge = 0)::integer;
      changed := changed + (v_alert.edge > 0)::integer;
    end if;
  end loop;
end
$$;

comment on function dlq._judge_rules(boolean) is
'Moves the alert of every rule by its line in dlq.health, and returns how many were raised, changed and resolved.';
