-- How long an answer asks us to wait. Null if it does not, or not in a form of RFC 9110, section 10.2.3:
-- seconds, or a date. Header names keep the case in which they came.
create or replace function dlq._retry_after(headers jsonb)
returns interval
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_value text := (select h.value from jsonb_each_text(headers) as h where lower(h.key) = 'retry-after' limit 1);
begin
  if v_value ~ '^\d{1,9}$' then
    return make_interval(secs => v_value::integer);
  elsif v_value ~ '^\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT$' then
    return greatest(v_value::timestamptz - clock_timestamp(), interval '0');
  end if;
  return null;
exception when datetime_field_overflow or invalid_datetime_format then
  return null;
end
$$;

comment on function dlq._retry_after(jsonb) is 'The wait that an answer''s Retry-After asks for. Null if there is none that can be read.';
