"""A queue as teams make it for themselves before they know of dlqctl."""

from __future__ import annotations

TABLES = """
    create table public.webhook_dlq (
      id uuid primary key default gen_random_uuid(),
      service text not null,
      phone_number text,
      payload jsonb not null,
      error_message text,
      status text not null default 'pending'
        check (status in ('pending', 'processing', 'reprocessed', 'failed')),
      retry_count integer not null default 0,
      next_retry_at timestamptz default now() + interval '5 minutes',
      last_retry_at timestamptz,
      created_at timestamptz not null default now(),
      updated_at timestamptz not null default now()
    );
    create index idx_webhook_dlq_status on public.webhook_dlq (status);
    create index idx_webhook_dlq_next_retry on public.webhook_dlq (next_retry_at) where status = 'pending';
    create index idx_webhook_dlq_service on public.webhook_dlq (service);
    create index idx_webhook_dlq_created_at on public.webhook_dlq (created_at);
    create table public.dlq_processing_log (
      id serial primary key,
      processed_at timestamptz not null default now(),
      status text not null,
      entries_processed integer default 0,
      entries_failed integer default 0,
      error_message text
    )
"""

PROCESSOR = """
    create function public.process_dlq_entries() returns integer language plpgsql as $$
    declare
      v_entry record;
      v_count integer := 0;
    begin
      for v_entry in
        select * from webhook_dlq where status = 'pending' and next_retry_at <= now() limit 100 for update skip locked
      loop
        perform net.http_post(
          url := '{url}' || v_entry.service, body := v_entry.payload,
          headers := jsonb_build_object('Content-Type', 'application/json', 'dlq-entry', v_entry.id));
        update webhook_dlq set status = 'reprocessed', updated_at = now() where id = v_entry.id;
        v_count := v_count + 1;
      end loop;
      insert into dlq_processing_log (status, entries_processed) values ('success', v_count);
      return v_count;
    end
    $$
"""
"""It takes for delivered what it has sent. `url`: where the handlers are."""

JOB = "select cron.schedule('process-dlq-entries', '* * * * *', 'select process_dlq_entries()')"


def rows(number: int) -> str:
    """Fill the queue: a quarter in each status, and a run for every tenth."""
    return f"""
        insert into public.webhook_dlq
          (service, phone_number, payload, error_message, status, retry_count, next_retry_at, created_at, updated_at)
        select 'whatsapp', '+3161234' || n, jsonb_build_object('n', n), 'timeout',
          (array['pending', 'processing', 'reprocessed', 'failed'])[n % 4 + 1], n % 4, now() + interval '1 day',
          now() - n * interval '1 second', now() - n * interval '500 ms'
        from generate_series(1, {number}) as n;
        insert into public.dlq_processing_log (processed_at, status, entries_processed)
        select now() - n * interval '5 minutes', case when n % 10 = 0 then 'error' else 'success' end, n
        from generate_series(1, {number} / 10) as n
    """
