-- Nothing for PUBLIC: whoever can read the queue reads the headers, and whoever can write responses forges them.
-- The worker may claim, remove and answer; it cannot queue a request or change one. What somebody has granted to roles
-- of their own stays, and so do their own objects.
do $$
declare
  v_object text;
begin
  for v_object in
    select 'schema net'
    union all
    select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from pg_class as c
    where c.relowner = 'dlq_owner'::regrole and c.relnamespace = 'net'::regnamespace and c.relkind in ('r', 'v', 'S')
    union all
    select format('routine %s', p.oid::regprocedure)
    from pg_proc as p
    where p.proowner = 'dlq_owner'::regrole and p.pronamespace = 'net'::regnamespace
  loop
    execute format('revoke all privileges on %s from public, dlq_admin, dlq_reader, dlq_writer, dlq_net_worker', v_object);
  end loop;
end
$$;

grant usage on schema net to dlq_net_worker;
grant select, update (claimed_by), delete on net.http_request_queue to dlq_net_worker;
grant select, insert, delete on net._http_response to dlq_net_worker;
