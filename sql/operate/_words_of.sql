-- What was said of an entry, which may be personal: by the handler that stored it, or of one attempt by the sender and in the reply.
-- With the caller's rights, and a set clause, so that it is not inlined: only who asks for it needs the right to read it.
create or replace function dlq._words_of(entry_id uuid, attempt integer default null)
returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
select case
  when _words_of.attempt is null then
    (select nullif(e.error_message, '') from public.webhook_dlq as e where e.id = _words_of.entry_id)
  else (
    select concat_ws('; ', nullif(a.error, 'HTTP ' || a.status_code), 'reply: ' || nullif(a.reply, ''))
    from dlq.delivery_attempts as a
    where a.entry_id = _words_of.entry_id and a.attempt = _words_of.attempt)
end
$$;

comment on function dlq._words_of(uuid, integer) is
'What the handler said of an entry; or of an attempt what the sender said, and the reply. May be personal. With the caller''s rights.';
