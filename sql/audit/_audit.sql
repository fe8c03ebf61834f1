-- Writes one act of whoever is connected into dlq.audit_log. Triggers call it, and so does a verb whose change is one that
-- the triggers leave to the queue itself, such as dlq.pause().
-- Of a row before and after it shows the columns that differ: those named in plain as they are, any other, so also one that
-- is new, as a keyed digest. updated_at says what dlq.audit_log.at says, host what url
-- does; value is a secret's, and has no digest either.
-- Who it was is read where it cannot be feigned: session_user logged in, and the setting role is always one that session_user
-- may be, also inside security definer functions, which cannot set it. Only the token's subject is hearsay.
create or replace function dlq._audit(
  action text,
  object text,
  key text default null,
  reason text default null,
  old jsonb default null,
  new jsonb default null,
  plain text[] default '{}'
)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into dlq.audit_log (at, login, role, subject, action, object, key, reason, before, after)
  select
    statement_timestamp(),
    session_user,
    coalesce(nullif(current_setting('role'), 'none'), session_user),
    case when current_setting('request.jwt.claims', true) <> '' then
      left(dlq._parse_body(convert_to(current_setting('request.jwt.claims'), 'UTF8')) ->> 'sub', 200) end,
    _audit.action, _audit.object, _audit.key, _audit.reason,
    jsonb_object_agg(c.key, case when c.is_plain then c.old else dlq._keyed_digest(c.old) end)
      filter (where _audit.old is not null),
    jsonb_object_agg(c.key, case when c.is_plain then c.new else dlq._keyed_digest(c.new) end)
      filter (where _audit.new is not null)
  from (
    select
      e.key, e.key = any (_audit.plain) as is_plain,
      nullif(_audit.old -> e.key, 'null') as old, nullif(_audit.new -> e.key, 'null') as new
    from jsonb_object_keys(coalesce(_audit.old, _audit.new)) as e (key)
    where e.key <> all ('{updated_at,host,value}')
  ) as c
  where c.old is distinct from c.new;
end
$$;

comment on function dlq._audit(text, text, text, text, jsonb, jsonb, text[]) is
$$Writes one act of whoever is connected into dlq.audit_log: what was done, to what, why, and the row before and after it.
Of the columns that differ, those in plain are shown as they are, the others as keyed digests.$$;
