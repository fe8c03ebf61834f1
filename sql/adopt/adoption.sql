-- What `dlqctl adopt` keeps while old rows follow. Made by it, in the transaction that takes over, and dropped by
-- `dlqctl adopt --drop-old`; no revision knows of them. Only dlq_owner reads or writes them.
create table dlq.adoption (
  singleton boolean not null default true,
  adopted_at timestamptz not null default now(),
  grace_until timestamptz not null,
  entries_expected bigint not null,
  entries_copied bigint not null default 0,
  runs_expected bigint not null,
  runs_copied bigint not null default 0,
  step text not null default 'waiting',
  position text,
  copied_first text[] not null default '{}',
  options jsonb not null,
  old_functions text[] not null,
  constraint adoption_pkey primary key (singleton),
  constraint there_is_one_row check (singleton),
  constraint step_is_known check (step in ('waiting', 'settled', 'log', 'done'))
);
alter table dlq.adoption enable row level security;

comment on table dlq.adoption is
$$One row: the taking over of a home-made queue, and how far its old rows have been copied. Drop: dlqctl adopt --drop-old.$$;
comment on column dlq.adoption.singleton is 'Always true: there is one row.';
comment on column dlq.adoption.adopted_at is 'When the old tables were renamed.';
comment on column dlq.adoption.grace_until is 'Entries that were processing then are not retried before this time.';
comment on column dlq.adoption.entries_expected is 'The rows of the old queue, counted shortly before.';
comment on column dlq.adoption.entries_copied is 'Rows of it that have been copied.';
comment on column dlq.adoption.runs_expected is 'The rows of the old log, counted shortly before.';
comment on column dlq.adoption.runs_copied is 'Rows of it that have been copied.';
comment on column dlq.adoption.step is 'What is being copied: waiting entries, then settled ones, then the log; done.';
comment on column dlq.adoption.position is 'The old id copied last in this step; rows go in the order of their old ids.';
comment on column dlq.adoption.copied_first is 'The old ids that were copied while the tables were locked: they were being processed.';
comment on column dlq.adoption.options is 'How dlqctl adopt was told to read the old columns, statuses and services.';
comment on column dlq.adoption.old_functions is 'The functions that were renamed, by their new names.';
