-- By which equal values are seen to be equal in dlq.audit_log, and nothing else is, without the key. An HMAC-SHA256 whose two
-- pads are random, instead of one key's.
create or replace function dlq._keyed_digest(value jsonb)
returns jsonb
language plpgsql stable strict set search_path = pg_catalog, pg_temp
as $$
begin
  return to_jsonb('hmac:' || encode(
    dlq._hmac_sha256((select k.value from dlq.audit_key as k), convert_to(_keyed_digest.value #>> '{}', 'UTF8')), 'hex'));
end
$$;

comment on function dlq._keyed_digest(jsonb) is
'What dlq.audit_log shows of a value that it must not show: select dlq._keyed_digest(''"+15550100"'') as dlq_owner finds it again.';
