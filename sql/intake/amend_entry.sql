-- The engine does this itself: its functions run as dlq_owner, which nobody else is.
create or replace trigger amend_entry
before update on public.webhook_dlq
for each row when (current_user <> 'dlq_owner') execute function dlq._amend_entry();

comment on trigger amend_entry on public.webhook_dlq is 'Keeps the times consistent when a person updates a row.';
