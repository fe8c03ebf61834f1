-- Trigger: one act in dlq.audit_log for each row that is inserted, updated or deleted, and one for a truncate.
-- Arguments: the column that says which row it is, or '' where there is but one; then the columns to show as they are.
-- value is a secret's: it is not handed on, since auto_explain can log what a nested statement is given.
create or replace function dlq._audit_change()
returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_old jsonb := to_jsonb(old) - 'value';
  v_new jsonb := to_jsonb(new) - 'value';
begin
  perform dlq._audit(
    action => lower(tg_op),
    object => format('%s.%s', tg_table_schema, tg_table_name),
    key => coalesce(v_old, v_new) ->> tg_argv[0],
    old => v_old,
    new => v_new,
    plain => tg_argv);
  return null;
end
$$;

comment on function dlq._audit_change() is 'Trigger: writes each changed row, or a truncate, into dlq.audit_log.';
