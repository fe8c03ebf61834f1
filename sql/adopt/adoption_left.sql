-- The old rows that `dlqctl adopt` could not copy. Comes and goes with dlq.adoption.
create table dlq.adoption_left (
  old_id text not null,
  error text not null,
  constraint adoption_left_pkey primary key (old_id)
);
alter table dlq.adoption_left enable row level security;

comment on table dlq.adoption_left is
$$Entries that could not be copied and are in webhook_dlq_old alone. Mend or delete them there, then: dlqctl adopt.$$;
comment on column dlq.adoption_left.old_id is 'The row''s id there.';
comment on column dlq.adoption_left.error is 'Why, beginning with the SQLSTATE.';
