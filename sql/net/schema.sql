-- Schema net as pg_net has it, for servers without pg_net: what is called (net.http_post, net.wake) and what is read
-- (the queue and the responses). The sending is done by `dlqctl net-worker`. It is dlq_owner's, which is how dlqctl
-- tells it from the extension's: never two senders on one.
comment on schema net is 'pg_net-compatible, served by dlqctl net-worker: not the extension';
