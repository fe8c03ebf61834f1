-- Queues a POST of these very bytes and returns its id: what net.http_post() does for a jsonb. pg_net has no function for it,
-- so this writes into its queue, and sends the bytes as libcurl takes them: up to the first NUL. Hence a body with one is
-- refused (22P05), and counts as not sent.
create or replace function dlq._post_raw(url text, body bytea, headers jsonb, timeout_ms integer)
returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id bigint;
begin
  if position('\x00'::bytea in body) > 0 then
    raise exception using errcode = '22P05', message = 'the body holds a NUL byte, which the sender cannot send raw';
  end if;
  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values ('POST', _post_raw.url, _post_raw.headers, _post_raw.body, _post_raw.timeout_ms)
  returning id into v_id;
  return v_id;
end
$$;

comment on function dlq._post_raw(text, bytea, jsonb, integer) is 'Queues a POST of these very bytes, and returns its id.';
