-- Whether the request comes with the admin claim: {"app_metadata": {"dlq_admin": true}} in the JSON web token that PostgREST has
-- verified. Only the service key can write app_metadata; user_metadata is the user's own to write, and counts for nothing.
-- Whoever can run SQL can set request.jwt.claims, so this admits nobody by itself: it narrows what authenticated is granted.
create or replace function dlq._has_admin_claim()
returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
select coalesce(
  nullif(current_setting('request.jwt.claims', true), '')::jsonb #> '{app_metadata,dlq_admin}' = 'true'::jsonb, false)
$$;

comment on function dlq._has_admin_claim() is
'Whether PostgREST''s request carries the claim {"app_metadata": {"dlq_admin": true}}.';
