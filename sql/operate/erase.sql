-- A person's right to be forgotten. Finds what is kept of a phone number: entries that have it in phone_number, or anywhere in
-- their payload, raw body, headers or error text; earlier payloads; errors and replies of attempts; requests that wait for the sender, and
-- answers; the error text that a replay looked for. What happened and when stays, without whom it concerned. What waits or is under way is discarded: without its body it
-- cannot be sent. On record are the whole of it and, so that its story tells it, each entry.
-- The number is compared by its digits, as a number by itself and not as a part of a longer one. Reads the whole queue.
create or replace function dlq.erase(phone_number text, reason text)
returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_digits text := regexp_replace(erase.phone_number, '\D', '', 'g');
  v_pattern text := format('(^|[^0-9])%s($|[^0-9])', v_digits);
  v_ids uuid[];
  v_erased jsonb;
  v_n bigint;
begin
  perform dlq._check_reason(erase.reason, 'select dlq.erase(''+15550100123'', ''request of 3 March'')');
  if v_digits is null or length(v_digits) < 7 then
    raise exception using
      errcode = 'WD002', message = 'this is no whole phone number', detail = 'Nothing was changed.',
      hint = 'Give it with its country code, seven digits at least: ''+15550100123''.';
  end if;

  -- raw_body as text byte for byte: escape leaves digits as they are.
  select array_agg(f.id)
  into v_ids
  from (
    select e.id
    from public.webhook_dlq as e
    where regexp_replace(e.phone_number, '\D', '', 'g') = v_digits
      or e.payload::text ~ v_pattern
      or encode(e.raw_body, 'escape') ~ v_pattern
      or e.headers::text ~ v_pattern
      or e.error_message ~ v_pattern
      or exists (
        select from dlq.amendments as a
        where a.entry_id = e.id and (a.payload::text ~ v_pattern or encode(a.raw_body, 'escape') ~ v_pattern))
      or exists (
        select from dlq.delivery_attempts as a
        where a.entry_id = e.id and (a.error ~ v_pattern or a.reply ~ v_pattern))
    order by e.id
    for update of e
  ) as f;

  delete from dlq.amendments as a where a.entry_id = any (v_ids);
  get diagnostics v_n = row_count;
  v_erased := jsonb_build_object('entries', coalesce(cardinality(v_ids), 0), 'amendments', v_n);

  v_erased := v_erased || dlq._erase_requests(v_ids, v_pattern);

  update dlq.delivery_attempts as a
  set error = null, reply = null
  where a.entry_id = any (v_ids) and (a.error is not null or a.reply is not null);
  get diagnostics v_n = row_count;
  v_erased := v_erased || jsonb_build_object('attempts', v_n);

  perform dlq._audit(
    'erase', 'public.webhook_dlq', e.id::text, erase.reason, jsonb_build_object('status', e.status),
    jsonb_build_object('status', case when e.status in ('pending', 'processing') then 'discarded' else e.status end), '{status}')
  from public.webhook_dlq as e
  where e.id = any (v_ids);
  update public.webhook_dlq as e
  set
    payload = '{"erased": true}',
    raw_body = null,
    headers = null,
    phone_number = null,
    error_message = null,
    idempotency_key = null,
    correlation_id = null,
    erased_at = coalesce(e.erased_at, dlq._now()),
    status = case when e.status in ('pending', 'processing') then 'discarded' else e.status end,
    next_retry_at = null,
    settled_at = coalesce(e.settled_at, dlq._now()),
    updated_at = dlq._now()
  where e.id = any (v_ids);

  update dlq.replays as r
  set filters = jsonb_set(r.filters, '{error_text}', dlq._keyed_digest(r.filters -> 'error_text'))
  where r.filters ->> 'error_text' ~ v_pattern;

  perform dlq._audit('erase', 'public.webhook_dlq', null, erase.reason, null, v_erased, '{entries,amendments,attempts,requests,responses}');
  return v_erased;
end
$$;

comment on function dlq.erase(text, text) is
$$Erases what is kept of a phone number, for a reason, and returns {"entries", "amendments", "attempts", "requests", "responses"}: how
many of each. Entries that waited are discarded. WD002: no reason, or less than seven digits.$$;
