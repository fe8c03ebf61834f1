-- An alert as a message for Slack's incoming webhooks, and for what takes the same. Slack reads &, < and > as its own marks.
create or replace function dlq._slack_message(facts jsonb)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
select jsonb_build_object('text', left(
  replace(replace(replace(
    concat_ws(E'\n',
      format('%s %s: %s', upper(facts ->> 'event'), facts ->> 'severity', facts ->> 'summary'),
      case when facts ->> 'event' <> 'resolved' then 'to do: ' || (facts ->> 'remediation') end,
      case when facts ->> 'event' <> 'resolved' then 'runbook: ' || (facts ->> 'runbook') end),
    '&', '&amp;'), '<', '&lt;'), '>', '&gt;'),
  3000))
$$;

comment on function dlq._slack_message(jsonb) is 'An alert, by dlq._alert_facts(), as {"text"}, which Slack''s incoming webhooks take.';
