-- Reads the answers to requests in flight and settles them: all of them, or those with one id.
-- The set-based half of collect_responses(), which redoes it id by id when an answer cannot be read. Not entry by entry: of two
-- that have one id the second would be alone, and be believed.
-- An answer is believed only for a request in flight with its id, in the same net._http_response, and not created
-- long before the request. An id that was handed out twice or answered twice makes its attempts unanswered.
-- v_since: created is the start of the sender's transaction and can precede the dispatch, hence the slack of 20 s; without
-- a bound on the indexed column every pass would read all stored answers. v_first and v_last: ids ascend, so of the last
-- answers they leave hardly any but ours, and the others are neither hashed nor joined.
-- "offset" keeps each request a look-up: planned when nothing was in flight, a join would read all that are for each.
-- A generic plan: with plans for each call, planning is a tenth of a turn of 200.
create or replace function dlq._read_answers(
  request_id bigint,
  out delivered integer,
  out failed integer,
  out unanswered integer
)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_net_oid oid := to_regclass('net._http_response');
  v_since timestamptz;
  v_first bigint;
  v_last bigint;
begin
  select min(f.dispatched_at) - interval '20 seconds', min(f.request_id), max(f.request_id) into v_since, v_first, v_last
  from dlq.in_flight as f;
  if v_since is null then  -- not even a plan for the rest
    delivered := 0;
    failed := 0;
    unanswered := 0;
    return;
  end if;

  with recent as materialized (  -- read once: joined directly, each request would read all of them again
    select r.id, r.created, r.status_code, r.error_msg, r.headers, r.content
    from net._http_response as r
    where r.created >= v_since and r.id between v_first and v_last
      -- One that hangs is old, and those after it have been settled. "is true" keeps this a look into a hash table.
      and (r.id in (select f.request_id from dlq.in_flight as f)) is true
  ),
  answers as (
    select
      f.entry_id, r.status_code, r.error_msg, r.headers, r.content,
      count(*) over (partition by f.request_id) > 1
        -- "in" is looked up in a hash table; "exists" would read the whole queue, its dead rows too, for each answer.
        or f.request_id in (select q.id from net.http_request_queue as q where q.id between v_first and v_last) as is_ambiguous,
      row_number() over (partition by f.entry_id) as nth
    from recent as r
      cross join lateral (select l.* from dlq.in_flight as l where l.request_id = r.id offset 0) as f
    where f.net_oid = v_net_oid and r.created >= f.dispatched_at - interval '20 seconds'
      and (_read_answers.request_id is null or f.request_id = _read_answers.request_id)
  ),
  locked as (
    select a.*, f.echoed
    from answers as a
      cross join lateral (
        select l.echoed from dlq.in_flight as l where l.entry_id = a.entry_id for update skip locked offset 0) as f
    where a.nth = 1
  ),
  judged as (
    select
      l.*,
      case
        when l.is_ambiguous then 'unanswered'
        when l.echoed then 'echoed'
        else dlq._judge_answer(l.status_code, l.error_msg, l.headers)
      end as outcome
    from locked as l
  )
  select s.delivered, s.failed, s.unanswered
  into delivered, failed, unanswered
  from (
    select
      array_agg(j.entry_id) as entry_ids,
      array_agg(j.outcome) as outcomes,
      array_agg(case when j.outcome <> 'unanswered' then j.status_code end) as status_codes,
      array_agg(case j.outcome
        when 'unanswered' then 'the answer''s id is not unique: it may be somebody else''s'
        when 'echoed' then 'the handler stored this failure again'
        when 'network_error' then coalesce(dlq._snippet(j.error_msg), 'no status')
        when 'http_error' then
          case when j.status_code between 200 and 399 then format('redirected (HTTP %s)', j.status_code)
          else format('HTTP %s', j.status_code) end
      end) as errors,
      array_agg(case when j.outcome <> 'unanswered' then dlq._snippet(j.content) end) as replies,
      array_agg(case when j.outcome = 'http_error' and j.status_code in (429, 503) then dlq._retry_after(j.headers) end) as waits
    from judged as j
  ) as a
    cross join lateral dlq._settle(a.entry_ids, a.outcomes, a.status_codes, a.errors, a.replies, a.waits) as s;
end
$$;

comment on function dlq._read_answers(bigint) is
'Settles the attempts that have an answer: those of one request id, or all if null. Raises if an answer cannot be read.';
