create or replace trigger note_schedule
after insert or update on dlq.endpoints
for each row when (new.retry_schedule is not null) execute function dlq._note_schedule();

comment on trigger note_schedule on dlq.endpoints is 'Notes that an endpoint has a retry_schedule of its own.';
