-- What happened to an entry, in order: how it came, each attempt and what was answered, which echoes of it were stored, what people
-- did with it, alone or with many, how it stands.
-- With the caller's rights. What the handler, the sender and the reply said, which may be personal, only on demand; acts of people
-- but amendments only where the caller may read dlq.audit_log.
create or replace function dlq.story(id uuid, personal boolean default false)
returns table (at timestamptz, what text, detail text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_entry record;
begin
  select e.* into v_entry from dlq.entries as e where e.id = story.id;
  if not found then
    raise exception using
      errcode = 'WD002',
      message = format('there is no entry %s', coalesce(story.id::text, 'null')),
      hint = 'To find it: dlqctl list, or select * from dlq.entries.';
  end if;
  return query
    select s.at, s.what, s.detail
    from (
      select 0 as nth, v_entry.created_at as at, 'stored' as what, concat_ws(': ',
        format('a failed webhook of %s', v_entry.service)
          || coalesce(', the echo of ' || v_entry.duplicate_of, '')
          || coalesce(', correlation id ' || v_entry.correlation_id, ''),
        case when story.personal then dlq._words_of(v_entry.id) end) as detail
      union all
      select a.attempt, a.settled_at, 'attempt ' || a.attempt, concat_ws(': ',
        case a.outcome
          when 'delivered' then format('delivered, HTTP %s', a.status_code)
          when 'http_error' then case when a.status_code < 400 then format('redirected, HTTP %s', a.status_code)
            else format('HTTP %s', a.status_code) end
          when 'network_error' then 'no answer: refused, timed out or cut off'
          when 'echoed' then concat_ws(', ', 'the handler stored this failure again', 'HTTP ' || a.status_code)
          when 'unanswered' then 'nobody knows how it ended'
          else 'it could not be sent'
        end
          || case when a.outcome <> 'not_sent' then
            format(', %s s after it was sent', round(extract(epoch from a.settled_at - a.dispatched_at), 1)) else '' end
          || case when a.outcome = 'unanswered' then ': it used up no retry'
            when a.is_probe and a.outcome <> 'delivered' then ': a probe' else '' end,
        case when story.personal then nullif(dlq._words_of(a.entry_id, a.attempt), '') end)
      from dlq.delivery_attempts as a
      where a.entry_id = v_entry.id
      union all
      select 0, a.amended_at, 'amend', format('by %s: %s', a.amended_by, a.reason)
      from dlq.amendments as a
      where a.entry_id = v_entry.id
      union all
      select 0, a.at, a.what, a.detail
      from dlq._acts_on(v_entry.id) as a
      union all
      select 0, e.created_at, 'echo', format('the handler stored this failure again, as %s', e.id)
      from dlq.entries as e
      where e.duplicate_of = v_entry.id
      union all
      select 2147483647, v_entry.last_retry_at, 'sent', format('attempt %s is under way', v_entry.attempt_count)
      where v_entry.status = 'processing'
    ) as s
    order by s.at, s.nth;
end
$$;

comment on function dlq.story(uuid, boolean) is
$$What happened to an entry, in order: how it came, every attempt and its answer, its echoes, what people did with it, replays
among that. personal: with error texts and replies, for who may read them. WD002: no such entry.$$;
