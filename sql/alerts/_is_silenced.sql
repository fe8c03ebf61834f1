-- Whether a person wished not to be told of a rule now. No set clause, so that the planner can inline it.
create or replace function dlq._is_silenced(rule text)
returns boolean
language sql stable
as $$
select exists (
  select from dlq.alert_silences as s
  where s.rule in (_is_silenced.rule, '*') and s.silenced_until > dlq._now())
$$;

comment on function dlq._is_silenced(text) is 'Whether a rule, or all, is silenced now.';
