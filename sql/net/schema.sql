-- Schema net as pg_net has it, for servers without pg_net: what is called (net.http_post, net.wake) and what is read
-- (the queue and the responses). The sending is done by `dlqctl net-worker`. The comment is how dlqctl tells this
-- schema from the extension's: never two senders on one.
create schema if not exists net authorization dlq_owner;

comment on schema net is 'pg_net-compatible, served by dlqctl net-worker: not the extension';
