-- An alert as an event of PagerDuty's Events API v2. A change is a trigger with the same key: it adds to the incident, and pages
-- nobody again. A summary holds 1,024 characters. To resolve takes no payload.
create or replace function dlq._pagerduty_event(facts jsonb, routing_key text)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
select jsonb_build_object(
    'routing_key', _pagerduty_event.routing_key,
    'event_action', case facts ->> 'event' when 'resolved' then 'resolve' else 'trigger' end,
    'dedup_key', facts ->> 'dedup_key')
  || case when facts ->> 'event' = 'resolved' then '{}'
    else jsonb_build_object(
      'client', 'dlqctl',
      'payload', jsonb_build_object(
        'summary', left(facts ->> 'summary', 1024),
        'source', facts ->> 'source',
        'severity', facts ->> 'severity',
        'timestamp', coalesce(nullif(facts -> 'changed_at', 'null'), facts -> 'raised_at'),
        'component', 'webhook_dlq',
        'class', facts ->> 'rule',
        'custom_details', jsonb_strip_nulls(jsonb_build_object(
          'detail', facts ->> 'detail',
          'remediation', facts ->> 'remediation',
          'services', nullif(facts -> 'subjects', '[]'),
          'runbook', facts ->> 'runbook'))))
  end
  || case when facts ->> 'event' <> 'resolved' and facts ->> 'runbook' ~ '^https?://'
    then jsonb_build_object('links', jsonb_build_array(jsonb_build_object('href', facts ->> 'runbook', 'text', 'runbook')))
    else '{}' end
$$;

comment on function dlq._pagerduty_event(jsonb, text) is
'An alert, by dlq._alert_facts(), as an event of PagerDuty''s Events API v2: trigger or resolve.';
