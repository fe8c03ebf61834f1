-- Hands entries to the sender and records it, in one statement: each is processing, queued in pg_net and in flight, or
-- none of it. Raises what net.http_post() raises: dispatch_due() then redoes the batch entry by entry.
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
      e.id, e.service, e.attempt_count + 1 as attempt, r.url, r.timeout_ms, b.body,
      r.headers
        || jsonb_build_object(
          'Content-Type', 'application/json',
          'webhook-id', e.id,
          'Idempotency-Key', e.id,
          'dlq-attempt', (e.attempt_count + 1)::text)
        || case when e.correlation_id is null then '{}'
          -- A line break would begin another header.
          else jsonb_build_object('x-correlation-id', regexp_replace(e.correlation_id, '[^ -~]', '', 'g')) end as headers
    from unnest(_send.entry_ids) with ordinality as o (id, nth)
      join public.webhook_dlq as e on e.id = o.id and e.status = 'pending'
      cross join lateral dlq._route(e.service) as r
      cross join lateral dlq._body(e.payload, e.raw_body) as b (body)
    order by o.nth
  ),
  posted as materialized (
    select
      c.*,
      net.http_post(url := c.url, body := c.body, headers := c.headers, timeout_milliseconds := c.timeout_ms) as request_id
    from chosen as c
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
  insert into dlq.in_flight (entry_id, request_id, dispatched_at, net_oid, attempt, timeout_ms, service, digest)
  select
    p.id, p.request_id, clock_timestamp(), to_regclass('net._http_response'), p.attempt, p.timeout_ms, p.service,
    dlq._digest(p.body)
  from posted as p;

  get diagnostics v_sent = row_count;
  return v_sent;
end
$$;

comment on function dlq._send(uuid[]) is
'Hands entries to the sender, in this order, and returns how many. Raises what net.http_post() raises.';
