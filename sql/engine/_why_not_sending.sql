-- Why nothing is sent from here at all, in words. Null if nothing stands in the way.
-- pg_net gives PUBLIC every right on its tables, TRIGGER included, and a trigger runs with the rights of whoever inserts:
-- ours would run it as dlq_owner.
create or replace function dlq._why_not_sending()
returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select case
  when dlq._is_production() is not true then  -- null: a restore that has not come to the settings
    'this is a copy of another database: nothing is sent. If it is production now: dlqctl migrate --this-is-production'
  when dlq._is_foreign('net') then
    'schema net belongs to neither a superuser nor dlq_owner, and would run with dlq_owner''s rights: nothing is sent'
  when to_regprocedure('net.http_post(text, jsonb, jsonb, jsonb, integer)') is null then
    'there is no sender: net.http_post() does not exist. create extension pg_net, or dlqctl migrate --net-worker'
  else (
    select format(
      'the trigger %I on net.http_request_queue would run with dlq_owner''s rights: nothing is sent. drop trigger %I on net.http_request_queue',
      t.tgname, t.tgname)
    from pg_trigger as t
    where t.tgrelid = to_regclass('net.http_request_queue') and not t.tgisinternal and t.tgenabled <> 'D'
    order by t.tgname
    limit 1)
end
$$;

comment on function dlq._why_not_sending() is 'Why nothing is sent from this database, in words. Null if nothing stands in the way.';
