-- Requests to be sent, pg_net's columns in pg_net's order, and who is sending each at the moment.
-- A row stays until its response is inserted: in any snapshot a request is here or answered, never neither.
-- Unlogged, as pg_net's is: a crash or a failover empties it and starts its ids again at 1.
create unlogged table if not exists net.http_request_queue (
  id bigserial not null,
  method text not null,
  url text not null,
  headers jsonb,
  body bytea,
  timeout_milliseconds integer not null,
  claimed_by integer,
  constraint http_request_queue_pkey primary key (id),
  constraint method_is_post check (method = 'POST')
);
-- Only what is being sent is in it: a worker that is gone is found without reading the backlog.
create index if not exists http_request_queue_claimed_by_idx
  on net.http_request_queue (claimed_by) where claimed_by is not null;

comment on table net.http_request_queue is
$$A request that is waiting or being sent.
The columns of pg_net's table, and the claim. Fill it with net.http_post().$$;
comment on column net.http_request_queue.id is 'What net.http_post() returned. Starts again at 1 after a crash.';
comment on column net.http_request_queue.method is 'POST, the only method served.';
comment on column net.http_request_queue.url is 'Where to, http or https.';
comment on column net.http_request_queue.headers is 'One JSON object, name to value. A JSON null drops the header.';
comment on column net.http_request_queue.body is 'The bytes of the body.';
comment on column net.http_request_queue.timeout_milliseconds is 'For the whole request, from resolving the name to the last byte.';
comment on column net.http_request_queue.claimed_by is
$$The worker that is sending it. Null while it waits.
Holds only while that worker's session holds the advisory lock (1684828526, claimed_by).$$;
