-- Changes a rule: its threshold (a number for those that count, an interval for those that wait), how long its line must be unwell and
-- well, how severe it is. What is null stays as it is; of overdue the threshold none
-- is two cycles, as at first.
create or replace function dlq.set_alert_rule(
  name text,
  threshold text default null,
  hold interval default null,
  quiet interval default null,
  severity_at_warning text default null,
  severity_at_error text default null,
  enabled boolean default null,
  runbook text default null
)
returns dlq.alert_rules
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_rule dlq.alert_rules;
  v_counts boolean;
  v_constraint text;
begin
  perform dlq._check_rule(set_alert_rule.name);
  select r.more_than is not null into v_counts from dlq.alert_rules as r where r.name = set_alert_rule.name;
  update dlq.alert_rules as r
  set
    more_than = case when v_counts then nullif(coalesce(set_alert_rule.threshold, r.more_than::text), 'none')::integer end,
    longer_than = case when not v_counts then nullif(coalesce(set_alert_rule.threshold, r.longer_than::text), 'none')::interval end,
    hold = coalesce(set_alert_rule.hold, r.hold),
    quiet = coalesce(set_alert_rule.quiet, r.quiet),
    severity_at_warning = nullif(coalesce(set_alert_rule.severity_at_warning, r.severity_at_warning), 'none'),
    severity_at_error = nullif(coalesce(set_alert_rule.severity_at_error, r.severity_at_error), 'none'),
    enabled = coalesce(set_alert_rule.enabled, r.enabled),
    runbook = coalesce(set_alert_rule.runbook, r.runbook)
  where r.name = set_alert_rule.name
  returning r.* into v_rule;
  return v_rule;
exception
  when check_violation then
    get stacked diagnostics v_constraint = constraint_name;
    perform dlq._refuse_row(
      format('the rule %s', set_alert_rule.name), 'dlq.alert_rules', v_constraint, 'select * from dlq.alert_rules');
  when invalid_text_representation or invalid_datetime_format or numeric_value_out_of_range or datetime_field_overflow
    or interval_field_overflow then
    perform dlq._refuse_row(
      format('the rule %s', set_alert_rule.name), 'dlq.alert_rules', 'threshold is not of its kind',
      case when v_counts then 'It counts: --threshold 200.' else 'It waits: --threshold ''15 minutes''.' end);
end
$$;

comment on function dlq.set_alert_rule(text, text, interval, interval, text, text, boolean, text) is
$$Changes a rule, and returns it. What is null stays as it is; a severity ends by saying none, and so does the
threshold of overdue, which then is two cycles. WD002: something is not in order; the
hint says what.$$;
