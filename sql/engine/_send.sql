-- Hands entries to the sender and records it, in one statement: each is processing, queued in pg_net and in flight, or
-- none of it. Raises what net.http_post() raises: dispatch_due() then redoes the batch entry by entry.
-- What is signed is what goes over the wire, byte for byte: convert_to(body::text, 'UTF8') is how pg_net sends a jsonb.
-- The caller has locked the entries.
create or replace function dlq._send(entry_ids uuid[])
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_sent integer;
begin
  with chosen as materialized (
    select
      o.nth, e.id, e.service, e.attempt_count + 1 as attempt, e.correlation_id, e.headers as original_headers,
      r.url, r.timeout_ms, r.headers, r.signing, r.secret_names, r.auth, r.auth_secret, b.body,
      r.body = 'raw' and e.raw_body is not null as is_raw,
      r.body <> 'raw' or e.payload is not null as is_json,
      case when r.body = 'raw' and e.raw_body is not null then e.raw_body else convert_to(b.body::text, 'UTF8') end as bytes
    from unnest(_send.entry_ids) with ordinality as o (id, nth)
      join public.webhook_dlq as e on e.id = o.id and e.status = 'pending'
      cross join lateral dlq._route(e.service) as r
      cross join lateral dlq._body(e.payload, e.raw_body) as b (body)
  ),
  callees as materialized (  -- what is the same for all entries of a service
    select
      s.service,
      dlq._sendable_headers(s.headers)
        || case when s.auth in ('bearer', 'both') then jsonb_build_object('authorization', 'Bearer ' || t.token) else '{}' end
        || case when s.auth in ('apikey', 'both') then jsonb_build_object('apikey', t.token) else '{}' end as headers,
      case when s.signing is not null then dlq._signing_keys(s.signing, s.secret_names) end as keys
    from (select distinct c.service, c.headers, c.signing, c.secret_names, c.auth, c.auth_secret from chosen as c) as s
      cross join lateral (select case when s.auth_secret is not null then dlq._secret(s.auth_secret) end as token) as t
  ),
  addressed as materialized (
    select
      c.*,
      jsonb_build_object('content-type', case when c.is_json then 'application/json' else 'application/octet-stream' end)
        || case when c.is_raw then dlq._sendable_headers(c.original_headers) else '{}' end
        || l.headers
        || jsonb_build_object('idempotency-key', c.id, 'dlq-entry', c.id, 'dlq-attempt', c.attempt::text)
        -- The provider's own signature covers the provider's own id.
        || case when c.is_raw and c.signing is null then '{}' else jsonb_build_object('webhook-id', c.id) end
        || case when c.correlation_id is null then '{}'
          -- A line break would begin another header.
          else jsonb_build_object('x-correlation-id', regexp_replace(c.correlation_id, '[^ -~]', '', 'g')) end
        || dlq._sign(c.signing, l.keys, c.id::text, clock_timestamp(), c.bytes) as all_headers
    from chosen as c
      join callees as l on l.service = c.service
    order by c.nth
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
        where r.created >= now() - interval '1 minute' and r.id >= (select min(q.request_id) from posted as q))
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
