-- What dlq_owner needs of the real pg_net, where PUBLIC does not have it (older versions, or after a REVOKE).
do $$
begin
  if not has_schema_privilege('dlq_owner', 'net', 'usage') then
    grant usage on schema net to dlq_owner;
  end if;
  if not has_function_privilege('dlq_owner', 'net.http_post(text, jsonb, jsonb, jsonb, integer)', 'execute') then
    grant execute on function net.http_post(text, jsonb, jsonb, jsonb, integer) to dlq_owner;
  end if;
  if not has_table_privilege('dlq_owner', 'net.http_request_queue', 'insert')
    or not has_table_privilege('dlq_owner', 'net.http_request_queue', 'select') then
    grant select, insert on net.http_request_queue to dlq_owner;
  end if;
  if not has_sequence_privilege('dlq_owner', pg_get_serial_sequence('net.http_request_queue', 'id'), 'usage') then
    execute format('grant usage on sequence %s to dlq_owner', pg_get_serial_sequence('net.http_request_queue', 'id'));
  end if;
  if not has_table_privilege('dlq_owner', 'net._http_response', 'select') then
    grant select on net._http_response to dlq_owner;
  end if;
end
$$;
