-- Removes up to 10,000 acts that are older than the setting says from the audit log, if it says so, and puts that on record
-- there itself. Nothing else removes any: this runs as dlq_owner, whom the trigger lets through, and takes no argument, so
-- whoever may call it removes no more than the setting, whose change is on record for as long as it must be at least.
-- Acts come in the order of their ids, but for those of long statements: a few may stay a day longer.
create or replace function dlq._remove_acts()
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := (select dlq._now() - s.retain_audit from dlq.settings as s);
  v_removed integer;
begin
  if v_until is null then
    return 0;
  end if;
  delete from dlq.audit_log as a
  where a.at <= v_until
    and a.id = any (array(select o.id from dlq.audit_log as o order by o.id limit 10000));
  get diagnostics v_removed = row_count;
  if v_removed > 0 then
    perform dlq._audit(
      action => 'expire',
      object => 'dlq.audit_log',
      new => jsonb_build_object('rows', v_removed, 'until', v_until),
      plain => '{rows,until}');
  end if;
  return v_removed;
end
$$;

comment on function dlq._remove_acts() is
'Removes acts older than dlq.settings.retain_audit from dlq.audit_log, records that there, and returns how many.';
