-- Whether it takes _is_unwritable() to tell: whether a document holds a number that is huge, tiny, zero or negative. Every webhook
-- pays for this question, so it costs four microseconds at most, for 1 KB, and errs on one side. No set clause, so that it can be inlined.
-- Lax, so that each comparison is one walk over all values, which ends with the first number that is found. {last} is the leaves alone,
-- and not the document itself if it is one.
create or replace function dlq._may_be_unwritable(document jsonb)
returns boolean
language sql immutable
as $$
select coalesce(document operator(pg_catalog.@@) 'lax $.**{last} >= 1e400 || $.**{last} < 1e-400 || $ >= 1e400 || $ < 1e-400'::pg_catalog.jsonpath, false)
$$;

comment on function dlq._may_be_unwritable(jsonb) is 'Whether a document holds a number for which _is_unwritable() must be asked.';
