-- Raises WD002 unless these can be the filters of a replay. What is blank was meant to be something, and would match everything.
create or replace function dlq._check_replay(
  service text,
  status text,
  error_text text,
  phone_number text,
  max_entries integer,
  per_minute integer,
  at_once integer
)
returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hint text;
begin
  perform dlq._check_service(_check_replay.service);
  v_hint := case
    when _check_replay.status in ('failed', 'pending', 'discarded', 'reprocessed') then
      case
        when btrim(_check_replay.error_text) = '' then 'error_text: a part of the last attempt''s error, for example ''timeout''.'
        when _check_replay.phone_number !~ '\d' then 'phone_number: the number with its digits, for example ''+15550100123''.'
        when (_check_replay.max_entries >= 1) is not true then 'max_entries: 1 or more.'
        when (coalesce(_check_replay.at_once, _check_replay.max_entries) between 1 and 100000) is not true then
          'max_entries: 1 to 100000. More: dlqctl replay --all; or here with at_once => 10000, and dlq.continue_replay().'
        when _check_replay.per_minute < 1 then 'per_minute: 1 or more; or null, for all at once.'
      end
    else 'status: failed, pending, discarded or reprocessed.'
  end;
  if v_hint is not null then
    raise exception using
      errcode = 'WD002', message = 'this cannot be replayed', detail = 'Nothing was changed.', hint = v_hint;
  end if;
end
$$;

comment on function dlq._check_replay(text, text, text, text, integer, integer, integer) is
'Raises WD002, saying which and how, unless these can be the filters of a replay.';
