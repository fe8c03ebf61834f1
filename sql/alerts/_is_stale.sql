-- Whether nobody would be helped by one more try to tell of an alert: it was a test, or it is resolved since a day. While it is not
-- resolved, those who have not been told are still to be.
create or replace function dlq._is_stale(alert_id bigint)
returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select exists (
  select from dlq.alerts as a
  where a.id = _is_stale.alert_id and (a.rule = 'test' or a.resolved_at <= dlq._now() - interval '1 day'))
$$;

comment on function dlq._is_stale(bigint) is 'Whether an alert is a test, or resolved since a day: what could not be told of it is given up.';
