-- dlq.receive_webhook() for PostgREST: POST /rest/v1/rpc/receive_webhook with Content-Type: application/octet-stream hands the raw
-- bytes to a function of one unnamed bytea, and its headers in the setting request.headers. The service is named by the header
-- dlq-service, the error by dlq-error, the webhook's own type by dlq-content-type. Answers 401 where the signature is wrong.
create or replace function public.receive_webhook(bytea)
returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_headers jsonb := coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb;
  v_answer jsonb;
begin
  v_answer := dlq.receive_webhook(
    v_headers ->> 'dlq-service', $1,
    -- The type of what is said to this door is not the webhook's.
    v_headers - '{dlq-service,dlq-error,dlq-content-type,content-type}'::text[]
      || case when v_headers ? 'dlq-content-type' then jsonb_build_object('content-type', v_headers -> 'dlq-content-type')
        else '{}' end,
    v_headers ->> 'dlq-error');
  if v_answer ->> 'status' = 'invalid_signature' then
    perform set_config('response.status', '401', true);
    return jsonb_build_object('error', 'invalid_signature', 'reason', v_answer ->> 'reason');
  end if;
  return v_answer;
end
$$;

comment on function public.receive_webhook(bytea) is
$$Stores a failed webhook if its signature is right, once: POST /rest/v1/rpc/receive_webhook, the raw body as
application/octet-stream, with the headers it came with and dlq-service. Returns {"status": "accepted" | "duplicate", "id"},
or {"error": "invalid_signature", "reason"} with status 401.$$;
