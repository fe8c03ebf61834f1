-- What dlq.replay() with these filters would do now. Changes nothing, locks nothing.
create or replace function dlq.preview_replay(
  service text default null,
  status text default 'failed',
  created_after timestamptz default null,
  created_before timestamptz default null,
  status_code integer default null,
  error_text text default null,
  phone_number text default null,
  max_entries integer default 1000,
  per_minute integer default null,
  out matched integer,
  out entries integer,
  out services jsonb,
  out oldest timestamptz,
  out newest timestamptz,
  out ends_at timestamptz
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
begin
  perform dlq._check_replay(
    preview_replay.service, preview_replay.status, preview_replay.error_text, preview_replay.phone_number,
    preview_replay.max_entries, preview_replay.per_minute, at_once => 1);
  with found as materialized (
    select r.id, r.created_at, r.service
    from dlq._replayable(
      preview_replay.service, preview_replay.status, preview_replay.created_after, preview_replay.created_before,
      preview_replay.status_code, preview_replay.error_text, regexp_replace(preview_replay.phone_number, '\D', '', 'g')) as r
  ),
  chosen as materialized (
    select f.service, f.created_at from found as f order by f.created_at, f.id limit preview_replay.max_entries
  )
  select
    (select count(*) from found), count(*),
    (select jsonb_object_agg(s.service, s.n)
      from (select c.service, count(*) as n from chosen as c group by c.service) as s),
    min(c.created_at), max(c.created_at)
  into matched, entries, services, oldest, newest
  from chosen as c;
  if entries > 0 then
    ends_at := dlq._now() + coalesce(entries * interval '1 minute' / preview_replay.per_minute, '0');
  end if;
end
$$;

comment on function dlq.preview_replay(text, text, timestamptz, timestamptz, integer, text, text, integer, integer) is
$$What dlq.replay() with these filters would do, without doing it. One row: how many entries match, and of those that it would take:
how many, {service: how many}, when the oldest and the newest was stored, and when the last would be due. WD002: a filter is not in order.$$;
