-- What an element of store_dlq_entries() may say: store_dlq_entry()'s parameters. No set clause, so that it can be inlined.
create or replace function dlq._element_names()
returns text[]
language sql immutable
as $$
select '{service,payload,error_message,phone_number,raw_body,headers,idempotency_key,correlation_id}'::pg_catalog.text[]
$$;

comment on function dlq._element_names() is 'The names in an element of store_dlq_entries(): the parameters of store_dlq_entry().';
