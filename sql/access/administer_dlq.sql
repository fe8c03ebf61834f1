-- What dlq_admin does over RPC, for signed-in users with the admin claim: the one function of ours that authenticated may call,
-- and it asks for the claim whoever calls. A check inside process_dlq_entries() itself could not tell who calls it, a user of
-- the API or a function of yours which that user called, and would refuse both.
-- Raises 42501 without the claim, which PostgREST answers with 403; WD002 for an act it does not know.
create or replace function public.administer_dlq(act text)
returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if not dlq._has_admin_claim() then
    raise exception using
      errcode = '42501',
      message = 'the admin claim is missing',
      hint = 'It is {"app_metadata": {"dlq_admin": true}} in the user''s token: see docs/access.md.';
  end if;
  case act
    when 'health' then return public.dlq_health();
    when 'process' then return public.process_dlq_entries();
    else
      raise exception using
        errcode = 'WD002', message = format('%L is not an act', act), hint = 'act: health or process.';
  end case;
end
$$;

comment on function public.administer_dlq(text) is
$$For signed-in users with the admin claim: health answers as dlq_health(), process as process_dlq_entries().
42501: the claim is missing. WD002: no such act.$$;
