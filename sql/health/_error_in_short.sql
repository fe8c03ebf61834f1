-- What health, and so a pager, is told of an error that ended a step: its SQLSTATE, and the step or the entry's id. PostgreSQL's
-- words can quote what somebody's trigger or index was given, a payload or a phone number: they stay in the log, for whoever may
-- read that. Errors of our own (WD) name services, secrets and tables alone, and are told whole.
create or replace function dlq._error_in_short(error_message text)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
select case when error_message like 'WD___ %' then error_message else split_part(error_message, ':', 1) end
$$;

comment on function dlq._error_in_short(text) is
$$Of a run's error_message what stands before its words, the SQLSTATE and the step; the words, too, if they are our own (class WD). Null
for null.$$;
