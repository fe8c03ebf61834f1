-- Why nothing is sent from here at all, in words. Null if nothing stands in the way.
create or replace function dlq._why_not_sending()
returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
select case
  when dlq._is_production() is not true then  -- null: a restore that has not come to the settings
    'this is a copy of another database: nothing is sent. If it is production now: dlqctl migrate --this-is-production'
  when to_regprocedure('net.http_post(text, jsonb, jsonb, jsonb, integer)') is null then
    'there is no sender: net.http_post() does not exist. create extension pg_net, or dlqctl migrate --net-worker'
end
$$;

comment on function dlq._why_not_sending() is 'Why nothing is sent from this database, in words. Null if nothing stands in the way.';
