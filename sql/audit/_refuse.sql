-- Trigger: nobody does this by hand.
create or replace function dlq._refuse()
returns trigger
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using
    errcode = 'insufficient_privilege',
    message = format('%s.%s takes no %s by hand', tg_table_schema, tg_table_name, lower(tg_op)),
    hint = 'What was recorded stays; only the queue''s own functions write here.';
end
$$;

comment on function dlq._refuse() is 'Trigger: raises. Nobody does this by hand.';
