-- On Supabase a signed-in user speaks as authenticated. All of them hold these rights, and without the admin claim they come to
-- nothing: policies.sql shows no row then, and administer_dlq() refuses. Nothing is granted here that neither of them guards.
do $$
begin
  if to_regrole('authenticated') is not null then
    grant select, insert, update, delete on public.webhook_dlq to authenticated;
    grant select on public.dlq_processing_log to authenticated;
    grant execute on function dlq._has_admin_claim(), public.administer_dlq(text) to authenticated;
  end if;
end
$$;
