-- The services that a rule's line is about, where it is about services: something new among them is news, and who was there before
-- and is there again is not. Asked for lines that are not well only.
create or replace function dlq._alert_subjects(rule text)
returns text[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select coalesce(array_agg(s.service order by s.service), '{}')
from (
  select e.service from dlq._failing_endpoints as e where _alert_subjects.rule = 'circuits'
  union all
  select p.service
  from dlq.pauses as p
  where _alert_subjects.rule = 'paused' and (p.paused_until is null or p.paused_until > dlq._now())
  union all
  select w.service
  from dlq._waiting_services as w
  where case _alert_subjects.rule
    when 'endpoints' then not exists (select from dlq._route(w.service))
    when 'secrets' then dlq._missing_secret(w.service) is not null
  end
) as s
$$;

comment on function dlq._alert_subjects(text) is
'The services that a rule is about now: circuits, paused (* is everything), endpoints or secrets. Empty for other rules.';
