-- Raises WD002 for a row that a constraint has refused, with what the constraint's comment says as the hint.
create or replace function dlq._refuse_row(what text, relation regclass, violated text, otherwise text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using
    errcode = 'WD002',
    message = format('%s is not in order: %s', what, coalesce(nullif(replace(violated, '_', ' '), ''), 'something is missing')),
    detail = 'Nothing was changed.',
    hint = coalesce(
      (select obj_description(c.oid, 'pg_constraint')
       from pg_constraint as c
       where c.conrelid = _refuse_row.relation and c.conname = violated),
      otherwise);
end
$$;

comment on function dlq._refuse_row(text, regclass, text, text) is
'Raises WD002 for a row that a constraint has refused; the hint is the constraint''s comment.';
