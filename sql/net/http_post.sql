-- Queues a POST and returns its id: pg_net's signature, pg_net's checks. Sent once this transaction commits, with the
-- bytes convert_to(body::text, 'UTF8'), which is what a signature must cover. Never waits.
-- Raises 22004 for a null url, 22023 for one that is not http or https, or for a Content-Type other than
-- application/json. A host that libcurl refuses is not found here: that request is answered with an error_msg.
create or replace function net.http_post(
  url text,
  body jsonb default '{}',
  params jsonb default '{}',
  headers jsonb default '{"Content-Type": "application/json"}',
  timeout_milliseconds integer default 5000
)
returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_url text := http_post.url;
  v_headers jsonb := coalesce(http_post.headers, '{}');
  v_query text;
  v_types text[];
  v_id bigint;
begin
  if v_url is null then
    raise exception using errcode = '22004', message = 'url is null', hint = 'pass url := ''https://…''';
  end if;
  if v_url !~* '^https?://[^[:space:][:cntrl:]/?#]+([/?#][^[:space:][:cntrl:]]*)?$' then
    raise exception using
      errcode = '22023',
      message = 'url is not an http or https URL',
      hint = 'write it as https://host/path, with spaces and control characters percent-encoded';
  end if;

  if http_post.params <> '{}' then
    select string_agg(net._urlencode(p.key) || '=' || net._urlencode(p.value), '&')
    into v_query
    from jsonb_each_text(http_post.params) as p
    where p.value is not null;
  end if;
  if v_query is not null then
    -- The fragment is never sent, and would swallow what is appended.
    v_url := split_part(v_url, '#', 1);
    v_url := v_url || case when v_url like '%?%' then '&' else '?' end || v_query;
  end if;

  select array_agg(distinct h.value)
  into v_types
  from jsonb_each_text(v_headers) as h
  where lower(h.key) = 'content-type' and h.value is not null;
  if v_types is null then
    v_headers := v_headers || '{"Content-Type": "application/json"}';
  elsif v_types <> '{application/json}' then
    raise exception using
      errcode = '22023',
      message = 'the Content-Type header must be application/json',
      hint = 'leave it out: it is added';
  end if;

  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values ('POST', v_url, v_headers, convert_to(http_post.body::text, 'UTF8'), http_post.timeout_milliseconds)
  returning id into v_id;
  perform net.wake();
  return v_id;
end
$$;

comment on function net.http_post(text, jsonb, jsonb, jsonb, integer) is
$$Queues a POST of body as JSON and returns its id; the answer appears in net._http_response under that id.
params are appended to the url, percent-encoded. timeout_milliseconds covers the whole request.$$;
