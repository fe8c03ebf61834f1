-- After an endpoint has been given a retry_schedule of its own: says so in dlq.settings, which storing a webhook reads anyway. Never takes
-- it back: that would have to wait for whoever gives one at the same time.
create or replace function dlq._note_schedule()
returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update dlq.settings as s set endpoints_have_schedules = true where not s.endpoints_have_schedules;
  return null;
end
$$;

comment on function dlq._note_schedule() is 'Trigger: notes in dlq.settings that an endpoint has a retry_schedule of its own.';
