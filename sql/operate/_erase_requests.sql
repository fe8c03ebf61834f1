-- The part of dlq.erase() that is in the sender's tables: requests that wait are taken back, answers emptied, as far as dlq_owner may.
-- A request that the sender has taken goes out. What is in flight ends as unanswered, so that no answer comes
-- in later and is kept. It is counted among the old ones: the counts of this hour are the engine's, which must not wait for
-- the caller's transaction.
create or replace function dlq._erase_requests(entry_ids uuid[], pattern text)
returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids bigint[];
  v_requests bigint := 0;
  v_responses bigint := 0;
begin
  with landed as (
    delete from dlq.in_flight as f
    where f.entry_id = any (_erase_requests.entry_ids)
    returning f.*
  ),
  recorded as (
    insert into dlq.delivery_attempts
      (entry_id, dispatched_at, settled_at, request_id, attempt, is_probe, outcome, service)
    select l.entry_id, l.dispatched_at, clock_timestamp(), l.request_id, l.attempt, l.is_probe, 'unanswered', l.service
    from landed as l
    on conflict do nothing
    returning service, greatest(extract(epoch from settled_at - dispatched_at), 0) as seconds  -- a clock may be set back
  ),
  added_up as (
    insert into dlq.attempt_counts as c (hour, service, outcome, attempts, seconds, seconds_max)
    select '-infinity', r.service, 'unanswered', count(*), sum(r.seconds), max(r.seconds)
    from recorded as r
    group by r.service
    on conflict (hour, service, outcome, status_code) do update
    set
      attempts = c.attempts + excluded.attempts,
      seconds = c.seconds + excluded.seconds,
      seconds_max = greatest(c.seconds_max, excluded.seconds_max)
  )
  select array_agg(l.request_id) into v_ids from landed as l;

  if to_regclass('net.http_request_queue') is not null
    and has_table_privilege(to_regclass('net.http_request_queue'), 'select, update, delete')
  then
    delete from net.http_request_queue as q
    where q.ctid = any (array(
      select w.ctid from net.http_request_queue as w
      where w.id = any (v_ids) or encode(w.body, 'escape') ~ _erase_requests.pattern or w.headers::text ~ _erase_requests.pattern
      for update skip locked));
    get diagnostics v_requests = row_count;
  end if;
  if to_regclass('net._http_response') is not null
    and has_table_privilege(to_regclass('net._http_response'), 'select, update')
  then
    update net._http_response as r
    set content = null, headers = '{}'
    where r.id = any (v_ids) or r.content ~ _erase_requests.pattern or r.headers::text ~ _erase_requests.pattern;
    get diagnostics v_responses = row_count;
  end if;
  return jsonb_build_object('requests', v_requests, 'responses', v_responses);
end
$$;

comment on function dlq._erase_requests(uuid[], text) is
'The part of dlq.erase() that is in the sender''s tables. Returns {"requests", "responses"}: how many of each.';
