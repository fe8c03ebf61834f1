-- Raises WD003 if whoever runs this is shown rows by policy: then the queue would look empty, and every run would be a success.
-- Called by functions of dlq_owner, which sees all of its own tables unless they are another's or say FORCE ROW LEVEL SECURITY.
create or replace function dlq._check_sight(who text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if row_security_active('public.webhook_dlq') then
    raise exception using
      errcode = 'WD003',
      message = format('%s cannot see public.webhook_dlq', who),
      detail = format('Row level security applies to %s, which runs it.', current_user),
      hint = 'dlq_owner must own the table and the functions, without FORCE ROW LEVEL SECURITY. Run: dlqctl migrate --check';
  end if;
end
$$;

comment on function dlq._check_sight(text) is 'Raises WD003, saying who, if row level security hides the queue from the current user.';
