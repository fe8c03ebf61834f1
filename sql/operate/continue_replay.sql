-- Goes on with a replay of which at_once took a part: the next entries that its filters match, the oldest first, at its pace. One
-- transaction. When it takes none, or the replay has its max_entries, it is complete. By whom and when each part was taken is an act
-- of its own.
create or replace function dlq.continue_replay(id bigint, at_once integer default 10000)
returns dlq.replays
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_before integer;
  v_replay dlq.replays;
  v_message text;
  v_hint text;
begin
  perform pg_advisory_xact_lock(6581363);
  select * into v_replay from dlq.replays as r where r.id = continue_replay.id for update;
  v_message := format('replay %s cannot be continued', continue_replay.id);
  case
    when v_replay.id is null then
      v_message := format('there is no replay %s', coalesce(continue_replay.id::text, 'null'));
      v_hint := 'To find it: dlqctl replay list, or select * from dlq.replay_progress.';
    when (continue_replay.at_once between 1 and 100000) is not true then
      v_hint := 'at_once: 1 to 100000.';
    when v_replay.cancelled_at is not null then
      v_hint := 'It was cancelled. Another one: dlqctl replay, or dlq.replay().';
    when v_replay.filters ? 'phone_number' or v_replay.filters ->> 'error_text' like 'hmac:%' then
      v_hint := 'What it looked for is not kept. Another one goes on with the next: dlqctl replay, or dlq.replay().';
    else
  end case;
  if v_hint is not null then
    raise exception using errcode = 'WD002', message = v_message, detail = 'Nothing was changed.', hint = v_hint;
  end if;

  v_before := v_replay.entries;
  v_replay := dlq._replay_some(v_replay.id, null, continue_replay.at_once);
  if v_replay.entries > v_before then
    perform dlq._audit(
      'continue_replay', 'dlq.replays', v_replay.id::text, v_replay.reason, null,
      jsonb_build_object('entries', v_replay.entries - v_before), '{entries}');
  end if;
  return v_replay;
end
$$;

comment on function dlq.continue_replay(bigint, integer) is
$$Takes the next entries of a replay that has not all of them yet: at most at_once, and returns its row of dlq.replays, its entries all that
it has so far; as many as before: there are no more. WD002: no such replay, or it cannot be continued.$$;
