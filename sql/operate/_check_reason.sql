-- Raises WD002 if there is no reason, showing a call that has one.
create or replace function dlq._check_reason(reason text, example text)
returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(btrim(reason), '') = '' then
    raise exception using
      errcode = 'WD002',
      message = 'this needs a reason',
      detail = 'Nothing was changed.',
      hint = 'Whoever is on call next reads it in dlq.audit_log. For example: ' || example;
  end if;
end
$$;

comment on function dlq._check_reason(text, text) is 'Raises WD002 if there is no reason, showing a call that has one.';
