-- Hands entries to the sender and records it, in one statement: each is processing, queued in pg_net and in flight, or
-- none of it. Raises what net.http_post() raises: dispatch_due() then redoes the batch entry by entry.
-- What is signed is what goes over the wire, byte for byte: convert_to(body::text, 'UTF8') is how pg_net sends a jsonb.
-- The caller has locked the entries. Planned as _settle() is: "limit" and "offset" keep the queue being read by ids alone.
create or replace function dlq._send(entry_ids uuid[])
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_sent integer;
begin
  with chosen as materialized (
    select o.nth, e.id, e.service, e.attempt_count + 1 as attempt, e.correlation_id, e.headers, e.payload, e.raw_body
    from unnest(_send.entry_ids) with ordinality as o (id, nth)
      cross join lateral (select l.* from public.webhook_dlq as l where l.id = o.id offset 0) as e
    where e.status = 'pending'
    limit cardinality(_send.entry_ids)
  ),
  callees as materialized (  -- what is the same for all entries of a service
    select
      s.service, r.url, r.timeout_ms, r.signing, r.body = 'raw' as takes_raw,
      '{"content-type": "application/json"}' || dlq._sendable_headers(r.headers)
        || case when r.auth in ('bearer', 'both') then jsonb_build_object('authorization', 'Bearer ' || t.token) else '{}' end
        || case when r.auth in ('apikey', 'both') then jsonb_build_object('apikey', t.token) else '{}' end as headers,
      case when r.signing is not null then dlq._signing_keys(r.signing, r.secret_names) end as keys
    from (select distinct c.service from chosen as c) as s
      cross join lateral dlq._route(s.service) as r
      cross join lateral (select case when r.auth_secret is not null then dlq._secret(r.auth_secret) end as token) as t
  ),
  written as materialized (
    select
      c.nth, c.id, c.service, c.attempt, c.correlation_id, c.headers as original_headers, c.payload is not null as is_json,
      l.url, l.timeout_ms, l.headers, l.signing, l.keys, b.body,
      l.takes_raw and c.raw_body is not null as is_raw,
      case when l.takes_raw and c.raw_body is not null then c.raw_body else convert_to(b.body::text, 'UTF8') end as bytes
    from chosen as c
      join callees as l on l.service = c.service
      cross join lateral dlq._body(c.payload, c.raw_body) as b (body)
  ),
  addressed as materialized (
    select
      w.*,
      case when w.is_raw
        then jsonb_build_object('content-type', case when w.is_json then 'application/json' else 'application/octet-stream' end)
          || dlq._sendable_headers(w.original_headers) || (w.headers - 'content-type')
        else w.headers end
        || jsonb_build_object('idempotency-key', w.id, 'dlq-entry', w.id, 'dlq-attempt', w.attempt::text)
        -- The provider's own signature covers the provider's own id.
        || case when w.is_raw and w.signing is null then '{}' else jsonb_build_object('webhook-id', w.id) end
        || case when w.correlation_id is null then '{}'
          -- A line break would begin another header.
          else jsonb_build_object('x-correlation-id', regexp_replace(w.correlation_id, '[^ -~]', '', 'g')) end
        || dlq._sign(w.signing, w.keys, w.id::text, clock_timestamp(), w.bytes) as all_headers
    from written as w
    order by w.nth
  ),
  posted as materialized (
    select
      a.id, a.service, a.attempt, a.timeout_ms, a.bytes,
      case when a.is_raw
        then dlq._post_raw(a.url, a.bytes, a.all_headers, a.timeout_ms)
        else net.http_post(url := a.url, body := a.body, headers := a.all_headers, timeout_milliseconds := a.timeout_ms)
      end as request_id
    from addressed as a
  ),
  marked as (
    update public.webhook_dlq as e
    set
      status = 'processing',
      attempt_count = p.attempt,
      next_retry_at = null,
      last_retry_at = dlq._now(),
      updated_at = dlq._now()
    from posted as p
    where e.id = p.id
  )
  insert into dlq.in_flight
    (entry_id, request_id, dispatched_at, net_oid, attempt, timeout_ms, is_probe, service, digest)
  select
    p.id, p.request_id, clock_timestamp(),
    -- Somebody has set the ids back: what is answered already is not ours, so this one counts as lost. Without it, whoever
    -- empties the queue next would leave that answer as the only one.
    case when p.request_id in (
        select r.id from net._http_response as r
        where r.created >= now() - interval '20 seconds'
          and r.id between (select min(q.request_id) from posted as q) and (select max(q.request_id) from posted as q))
      then 0 else to_regclass('net._http_response') end,
    p.attempt, p.timeout_ms, t.service is not null, p.service, sha256(p.bytes)
  from posted as p
    left join dlq.endpoint_state as t on t.service = p.service and t.cap = 0;

  get diagnostics v_sent = row_count;
  return v_sent;
end
$$;

comment on function dlq._send(uuid[]) is
'Hands entries to the sender, in this order, and returns how many. Raises what net.http_post() raises.';
