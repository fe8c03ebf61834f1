-- What people did with an entry, alone or with many, for a caller who may read it: what dlq.audit_log has under its id, the replays
-- that took it, and their cancellations that put it back. Amendments have a table of their own.
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
  if has_table_privilege('dlq.replays', 'select') then
    return query
      select r.replayed_at, 'replay ' || r.id, format('by %s, %s -> pending, due %s: %s', r.replayed_by, x.status,
        date_trunc('second', x.due_at), r.reason)
      from dlq.replayed_entries as x
        join dlq.replays as r on r.id = x.replay_id
      where x.entry_id = _acts_on.entry_id
      union all
      select r.cancelled_at, 'cancel', concat_ws(': ',
        format('by %s, replay %s, pending -> %s', r.cancelled_by, r.id, x.status),
        (
          select a.reason from dlq.audit_log as a
          where a.key = r.id::text and a.object = 'dlq.replays' and a.action = 'cancel_replay'
          order by a.id desc
          limit 1))
      from dlq.replayed_entries as x
        join dlq.replays as r on r.id = x.replay_id
      where x.entry_id = _acts_on.entry_id and x.put_back;
  end if;
end
$$;

comment on function dlq._acts_on(uuid) is
'What people did with an entry, amendments aside: acts on record, replays, cancellations. No row where the caller may not read that.';
