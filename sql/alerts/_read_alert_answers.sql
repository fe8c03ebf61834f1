-- Settles the deliveries that are answered, and those that never will be: what dlq.collect_responses() and dlq.requeue_lost() do for
-- entries, by the same rules. An answer is believed only for a request in flight with its id, in the same net._http_response,
-- and if neither is there twice. Lost is what a crash has emptied, what is another net._http_response's, and what was for its timeout
-- and a minute neither queued nor answered; the two are looked up in one statement. There are a few rows at most.
-- The caller has the lock of alerts.
create or replace function dlq._read_alert_answers()
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_net_oid oid := case when not dlq._is_foreign('net') then to_regclass('net._http_response') end;
  v_since timestamptz := (select min(q.dispatched_at) from dlq.alert_requests as q) - interval '5 minutes';
  v_one record;
  v_lost dlq.alert_requests;
  v_state text;
  v_message text;
begin
  if v_net_oid is not null and v_since is not null then
    for v_one in
      select q as request, r.status_code, r.error_msg, r.headers, r.content,
        count(*) over (partition by r.id) > 1
          or exists (select from net.http_request_queue as n where n.id = q.request_id) as is_ambiguous
      from dlq.alert_requests as q
        join net._http_response as r on r.id = q.request_id and r.created >= q.dispatched_at - interval '5 minutes'
      where q.net_oid = v_net_oid and r.created >= v_since
    loop
      begin
        if v_one.is_ambiguous then
          perform dlq._settle_alert(v_one.request, 'unanswered', null, 'the answer''s id is not unique: it may be somebody else''s', null, null);
        else
          perform dlq._settle_alert(
            v_one.request, o.outcome, v_one.status_code,
            case o.outcome
              when 'network_error' then coalesce(dlq._snippet(v_one.error_msg), 'no status')
              when 'http_error' then case when v_one.status_code < 400 then format('redirected (HTTP %s)', v_one.status_code)
                else format('HTTP %s', v_one.status_code) end
            end,
            dlq._snippet(v_one.content),
            case when v_one.status_code in (429, 503) then dlq._retry_after(v_one.headers) end)
          from dlq._judge_answer(v_one.status_code, v_one.error_msg, v_one.headers) as o (outcome);
        end if;
      exception when others then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        perform dlq._settle_alert(
          v_one.request, 'unanswered', null, format('the answer could not be read: %s %s', v_state, v_message), null, null);
      end;
    end loop;

    update dlq.alert_requests as q  -- a time to come: the clock was set back, and nobody waits until then
    set missing_since = case when (q.missing_since <= clock_timestamp()) is not true then clock_timestamp() end
    where ((q.missing_since <= clock_timestamp()) is not true) = (
      not exists (select from net.http_request_queue as n where n.id = q.request_id)
      and not exists (select from net._http_response as r where r.id = q.request_id and r.created >= v_since));
  end if;

  for v_lost in
    select q.*
    from dlq.alert_requests as q
    where q.net_oid is distinct from v_net_oid
      or q.missing_since < clock_timestamp() - q.timeout_ms * interval '1 millisecond' - interval '1 minute'
    union all
    select 0, d.alert_id, d.sent_at, null, 0, d.edge, 0, d.rule, d.channel
    from dlq.alert_deliveries as d
    where d.status = 'sent'
      and not exists (select from dlq.alert_requests as q where q.rule = d.rule and q.channel = d.channel)
  loop
    perform dlq._settle_alert(v_lost, 'unanswered', null, 'the request is gone, and so is its answer', null, null);
  end loop;
end
$$;

comment on function dlq._read_alert_answers() is 'Settles the deliveries of alerts that are answered, and those that never will be.';
