-- Why nothing is sent from here at all, in words. Null if nothing stands in the way.
-- pg_net gives PUBLIC every right on its tables, TRIGGER included, and a trigger runs with the rights of whoever inserts:
-- ours would run it as dlq_owner. It must answer whatever is there, since health asks it: to_regclass() and its like raise where a
-- schema may not be used, so they stand behind that question.
-- In PL/pgSQL, which plans it once a session: every cycle asks.
create or replace function dlq._why_not_sending()
returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if dlq._is_production() is not true then  -- null: a restore that has not come to the settings
    return 'this is a copy of another database: nothing is sent. If it is production now: dlqctl migrate --this-is-production';
  elsif dlq._is_foreign('net') then
    return 'schema net belongs to neither a superuser nor dlq_owner, and would run with dlq_owner''s rights: nothing is sent';
  elsif not has_schema_privilege(to_regnamespace('net')::oid, 'usage') then  -- null, if there is none
    return 'dlq_owner may not use schema net: nothing is sent. As a superuser: grant usage on schema net to dlq_owner';
  elsif to_regprocedure('net.http_post(text, jsonb, jsonb, jsonb, integer)') is null then
    return 'there is no sender: net.http_post() does not exist. create extension pg_net, or dlqctl migrate --net-worker';
  end if;
  return (
    select format(
      'the trigger %I on net.http_request_queue would run with dlq_owner''s rights: nothing is sent. drop trigger %I on net.http_request_queue',
      t.tgname, t.tgname)
    from pg_trigger as t
      join pg_class as c on c.oid = t.tgrelid
      join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'net' and c.relname = 'http_request_queue' and not t.tgisinternal and t.tgenabled <> 'D'
    order by t.tgname
    limit 1);
end
$$;

comment on function dlq._why_not_sending() is 'Why nothing is sent from this database, in words. Null if nothing stands in the way.';
