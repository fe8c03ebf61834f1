-- The metrics, for whoever asks in SQL: dlqctl metrics, sql_exporter, Grafana.
create or replace view dlq.metrics
as
select m.name, m.type, m.help, m.labels, m.value
from dlq._metrics() as m;

comment on view dlq.metrics is
$$The metrics, one row a sample, as Prometheus means them: name, type (gauge or counter), help, labels (an object of texts), value.
Base units: seconds, bytes, and seconds since 1970 for times. For all of it at once: it is one look, in milliseconds.$$;
comment on column dlq.metrics.name is 'The metric. Ends in its unit, and in _total if it is a counter.';
comment on column dlq.metrics.type is 'gauge or counter.';
comment on column dlq.metrics.help is 'What it is, in a sentence.';
comment on column dlq.metrics.labels is 'Which sample of it: database, and what it is told by. An object of texts.';
comment on column dlq.metrics.value is 'The figure.';
