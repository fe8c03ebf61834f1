-- For how long a cycle may hand out work: the smallest of the setting, 80 % of the schedule's interval but at most
-- half of the time after which silence is reported, and 80 % of the session's statement_timeout, which covers a
-- whole CALL with its commits and cannot be set again inside. In PL/pgSQL, which plans it once a session.
create or replace function dlq._cycle_budget()
returns interval
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select least(
      s.cycle_budget,
      s.cycle_minutes * interval '48 seconds',
      t.processor / 2,
      0.8 * nullif(current_setting('statement_timeout')::interval, interval '0'))
    from dlq.settings as s, dlq._thresholds as t);
end
$$;

comment on function dlq._cycle_budget() is 'For how long a cycle may hand out work in this session.';
