-- Raises WD001 for the first element that store_dlq_entries() cannot store, and says which it is. It stores those before it, which
-- the error takes back.
create or replace function dlq._name_bad_element(entries jsonb[])
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_entry record;
  v_hint text;
begin
  for v_entry in
    select e.n, e.element from unnest(entries) with ordinality as e (element, n) order by e.n
  loop
    begin
      perform dlq._store_element(v_entry.element);
    exception when sqlstate 'WD001' or data_exception or statement_too_complex then
      get stacked diagnostics v_hint = pg_exception_hint;
      raise exception using
        errcode = 'WD001',
        message = format('element %s: %s', v_entry.n, sqlerrm),
        detail = 'Nothing was stored.',
        hint = coalesce(nullif(v_hint, ''), 'Give objects with the names of store_dlq_entry''s parameters; raw_body in base64.');
    end;
  end loop;
end
$$;

comment on function dlq._name_bad_element(jsonb[]) is 'Raises WD001 for the first element that cannot be stored, and says which.';
