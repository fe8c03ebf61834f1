-- For how long a maintenance run may go on: the smaller of the setting and 80 % of the session's statement_timeout, which
-- covers a whole CALL with its commits: see dlq._cycle_budget().
create or replace function dlq._maintenance_budget()
returns interval
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select least(s.maintain_budget, 0.8 * nullif(current_setting('statement_timeout')::interval, interval '0'))
from dlq.settings as s
$$;

comment on function dlq._maintenance_budget() is 'For how long dlq.maintain() may go on in this session.';
