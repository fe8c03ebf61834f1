-- What people did with an entry, as dlq.audit_log has it; nothing for a caller who may not read that. Amendments have a table of
-- their own.
create or replace function dlq._acts_on(entry_id uuid)
returns table (at timestamptz, what text, detail text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  if has_table_privilege('dlq.audit_log', 'select') then
    return query
      select a.at, a.action, concat_ws(': ',
        'by ' || a.login || case when a.before ->> 'status' <> a.after ->> 'status' then
          format(', %s -> %s', a.before ->> 'status', a.after ->> 'status') else '' end,
        a.reason)
      from dlq.audit_log as a
      where a.key = _acts_on.entry_id::text and a.object = 'public.webhook_dlq' and a.action <> 'amend';
  end if;
end
$$;

comment on function dlq._acts_on(uuid) is
'What people did with an entry, amendments aside, by dlq.audit_log. No row where the caller may not read that.';
