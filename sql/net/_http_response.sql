-- Answers, pg_net's columns in pg_net's order. A failure has error_msg and timed_out set, and nothing else.
-- Unlogged, as pg_net's is. The worker deletes rows after 6 hours.
create unlogged table if not exists net._http_response (
  id bigint,
  status_code integer,
  content_type text,
  headers jsonb,
  content text,
  timed_out boolean,
  error_msg text,
  created timestamptz not null default now()
);
create index if not exists _http_response_created_idx on net._http_response (created);
-- pg_net has none. The engine looks for the answers to ids between two: at 2,000 a second a minute's answers are 120,000.
create index if not exists _http_response_id_idx on net._http_response (id);

comment on table net._http_response is
$$The answer to a request, kept for 6 hours.
A success is: error_msg is null and status_code between 200 and 299. Redirects are not followed: 3xx is the answer.$$;
comment on column net._http_response.id is 'The request''s id, as net.http_post() returned it.';
comment on column net._http_response.status_code is 'The HTTP status. Null if there was no whole answer.';
comment on column net._http_response.content_type is 'The Content-Type header of the answer.';
comment on column net._http_response.headers is 'The answer''s headers, names as sent; of a repeated one the last value.';
comment on column net._http_response.content is
'The answer''s body: its first 1 MiB as UTF-8, what is not UTF-8 replaced, NULs removed. Null if empty.';
comment on column net._http_response.timed_out is 'Whether timeout_milliseconds ran out.';
comment on column net._http_response.error_msg is 'Why there is no whole answer. Null on any answer, whatever its status.';
comment on column net._http_response.created is 'When this row was inserted.';
