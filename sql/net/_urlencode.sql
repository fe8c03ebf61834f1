-- Percent-encodes every byte that RFC 3986 does not leave unreserved. Safe in any part of a URL.
create or replace function net._urlencode(value text)
returns text
language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
select coalesce(
  string_agg(
    case
      when c.symbol collate "C" ~ '^[A-Za-z0-9._~-]$' then c.symbol
      else regexp_replace(upper(encode(convert_to(c.symbol, 'UTF8'), 'hex')), '..', '%\&', 'g')
    end,
    '' order by c.nth),
  '')
from string_to_table(_urlencode.value, null) with ordinality as c (symbol, nth)
$$;

comment on function net._urlencode(text) is 'The text percent-encoded, for use inside a URL.';
