-- Whether a person wished not to be told of a rule now. As dlq._is_paused() is.
create or replace function dlq._is_silenced(rule text)
returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from dlq.alert_silences as s
    where s.rule in (_is_silenced.rule, '*') and s.silenced_until > dlq._now());
end
$$;

comment on function dlq._is_silenced(text) is 'Whether a rule, or all, is silenced now.';
