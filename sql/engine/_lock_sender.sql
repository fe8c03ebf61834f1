-- Why nothing is sent from here at all, in words, as dlq._why_not_sending() says it; null if nothing stands in the way, and then
-- nothing comes into it until the transaction ends: nobody adds a trigger to the queue.
create or replace function dlq._lock_sender()
returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  -- In this order: to_regclass() raises where the schema may not be used, and nobody else's tables are waited for.
  if has_schema_privilege(to_regnamespace('net')::oid, 'usage') and not dlq._is_foreign('net')
    and to_regclass('net.http_request_queue') is not null
  then
    lock table net.http_request_queue in row exclusive mode;
  end if;
  return dlq._why_not_sending();
end
$$;

comment on function dlq._lock_sender() is
'Why nothing is sent from this database, in words. Null: nothing stands in the way, until the transaction ends.';
