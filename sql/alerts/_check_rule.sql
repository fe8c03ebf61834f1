-- Raises WD002 unless there is such a rule.
create or replace function dlq._check_rule(rule text)
returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from dlq.alert_rules as r where r.name = _check_rule.rule) then
    raise exception using
      errcode = 'WD002',
      message = format('there is no rule %s', coalesce(_check_rule.rule, 'null')),
      detail = 'Nothing was changed.',
      hint = 'The rules: ' || (select string_agg(r.name, ', ' order by r.name) from dlq.alert_rules as r);
  end if;
end
$$;

comment on function dlq._check_rule(text) is 'Raises WD002, naming the rules, unless there is such a rule.';
