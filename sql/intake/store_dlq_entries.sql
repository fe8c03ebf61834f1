-- Stores failed webhooks by the thousand, each as store_dlq_entry() would, and returns their ids in the order given: all, or none.
-- raw_body is base64, as in the body that goes out for such an entry: shorter than hex, and every language writes it.
--
-- What is plain is stored in one statement, and what must be looked up for it is looked up once a service: the service has
-- nothing in flight, the headers name no entry, and there is a payload or a raw_body without numbers to be looked at. The rest
-- follows one by one: what may be an echo, what has a key that is there already, what is not in order. Those that have a key follow
-- the order of their keys in either way: two calls with the same keys would wait for each other crosswise otherwise; so would two
-- with the same echoes, hence dlq._lock_echoes().
--
-- Locks, and what happens beside others: as for store_dlq_entry(). A request that is dispatched after the call cannot have an
-- echo in it.
create or replace function public.store_dlq_entries(entries jsonb[])
returns setof uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[];
  v_left record;
begin
  perform set_config('dlq.looked_up', 'yes', true);
  with
  quiet as materialized (
    select g.service, s.jitter, dlq._first_wait(g.service) as wait
    from (select distinct e.element ->> 'service' as service from unnest(entries) as e (element)) as g
      cross join dlq.settings as s
    where not exists (select from dlq.in_flight as f where f.service = g.service)
      -- A trigger of somebody else's may change the row, its service too: dlqctl adopt makes one.
      and not exists (
        select
        from pg_trigger as t
        where t.tgrelid = 'public.webhook_dlq'::regclass and not t.tgisinternal and t.tgname <> 'accept_entry'
          and t.tgtype & 7 = 7)  -- before each row of an insert
  ),
  plain as materialized (
    select
      e.n, q.service, dlq._now() + q.wait * (1 + q.jitter * random()) as next_retry_at,
      case
        when e.element ->> 'raw_body' is null then e.element -> 'payload'
        else dlq._parse_body(decode(e.element ->> 'raw_body', 'base64'))
      end as payload,
      decode(e.element ->> 'raw_body', 'base64') as raw_body,
      nullif(e.element -> 'headers', 'null') as headers, e.element ->> 'idempotency_key' as idempotency_key,
      e.element ->> 'error_message' as error_message, e.element ->> 'phone_number' as phone_number,
      e.element ->> 'correlation_id' as correlation_id
    from unnest(entries) with ordinality as e (element, n)
      join quiet as q on q.service = e.element ->> 'service'
    where e.element - dlq._element_names() = '{}'
      and (nullif(e.element -> 'payload', 'null') is null) <> (e.element ->> 'raw_body' is null)
      and not dlq._may_be_unwritable(e.element)
      and dlq._may_name_an_entry(e.element -> 'headers') is not true
  ),
  -- The rows of `plain` are inserted and returned in the order in which they are read there.
  without_key as (
    insert into public.webhook_dlq as w
      (created_at, updated_at, next_retry_at, service, payload, raw_body, headers, error_message, phone_number, correlation_id)
    select dlq._now(), dlq._now(), p.next_retry_at, p.service, p.payload, p.raw_body, p.headers, p.error_message,
      p.phone_number, p.correlation_id
    from plain as p
    where p.idempotency_key is null
    returning w.id
  ),
  with_key as (
    insert into public.webhook_dlq as w
      (created_at, updated_at, next_retry_at, service, payload, raw_body, headers, error_message, phone_number, correlation_id,
        idempotency_key)
    select dlq._now(), dlq._now(), p.next_retry_at, p.service, p.payload, p.raw_body, p.headers, p.error_message,
      p.phone_number, p.correlation_id, p.idempotency_key
    from plain as p
    where p.idempotency_key is not null
    order by p.service, p.idempotency_key, p.n
    on conflict (service, sha256(decode(replace(idempotency_key, '\', '\\'), 'escape')))
      where idempotency_key is not null do nothing
    returning w.id, w.service, w.idempotency_key
  ),
  stored as (
    select i.n, i.id
    from unnest(
      array(select p.n from plain as p where p.idempotency_key is null), array(select w.id from without_key as w)) as i (n, id)
    union all
    select p.n, w.id
    from plain as p
      join with_key as w using (service, idempotency_key)
  )
  select array_agg(s.id order by e.n)
  into v_ids
  from generate_series(1, cardinality(entries)) as e (n)
    left join stored as s using (n);
  perform set_config('dlq.looked_up', '', true);

  if array_position(v_ids, null) is not null then
    perform dlq._lock_echoes(
      array(select e.element from unnest(entries) with ordinality as e (element, n) where v_ids[e.n] is null));
  end if;
  for v_left in
    select e.n, e.element
    from unnest(entries) with ordinality as e (element, n)
    where v_ids[e.n] is null
    order by e.element ->> 'service', e.element ->> 'idempotency_key', e.n
  loop
    v_ids[v_left.n] := dlq._store_element(v_left.element);
  end loop;
  return query select unnest(v_ids);
exception when sqlstate 'WD001' or data_exception or check_violation or statement_too_complex then
  perform dlq._name_bad_element(entries);
  raise;
end
$$;

comment on function public.store_dlq_entries(jsonb[]) is
$$Stores failed webhooks, all or none, and returns their ids in the order given. Each is a JSON object whose names are
store_dlq_entry()'s parameters; raw_body in base64. What that does for one this does for each: the same key, an echo.
WD001: one of them is not in order; the message says which, counted from 1.$$;
