-- Which of our tables row level security applies to for their owner: somebody has said FORCE, or has made them another's. A view or a
-- function of ours then sees no row of them, and takes that for an empty queue. A definer, because in a view it would be asked of
-- whoever reads the view. Strangers' tables in schema dlq, which dlq_owner may not read, are none of ours. In PL/pgSQL, which plans it
-- once a session.
create or replace function dlq._hidden_tables()
returns text[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(array_agg(c.oid::regclass::text order by c.oid::regclass::text), '{}')
    from pg_class as c
    where c.relkind = 'r' and c.relrowsecurity
      and (c.relnamespace = 'dlq'::regnamespace or c.oid in ('public.webhook_dlq'::regclass, 'public.dlq_processing_log'::regclass))
      and has_table_privilege(c.oid, 'select')
      and row_security_active(c.oid));
end
$$;

comment on function dlq._hidden_tables() is
'Which of our tables row level security hides from dlq_owner, and so from every view and function of ours. Empty: none.';
