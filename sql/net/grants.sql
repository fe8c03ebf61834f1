-- Nothing for PUBLIC: whoever can read the queue reads the headers, and whoever can write responses forges them.
-- The worker may claim, remove and answer; it cannot queue a request or change one.
select dlq._revoke_everything('{net}');

grant usage on schema net to dlq_net_worker;
grant select, update (claimed_by), delete on net.http_request_queue to dlq_net_worker;
grant select, insert, delete on net._http_response to dlq_net_worker;
