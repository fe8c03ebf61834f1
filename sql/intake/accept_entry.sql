-- store_dlq_entries() has looked up for all its rows what the trigger looks up for one, and says so by next_retry_at. It runs
-- as dlq_owner, which nobody else is; whoever is that by set role shows in the setting role.
create or replace trigger accept_entry
before insert on public.webhook_dlq
for each row when (current_user <> 'dlq_owner' or current_setting('role') = 'dlq_owner' or new.next_retry_at is null)
execute function dlq._accept_entry();

comment on trigger accept_entry on public.webhook_dlq is 'Completes a new row, and recognises echoes.';
