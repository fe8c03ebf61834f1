-- A wake-up of pg_net can be lost while somebody holds its tables. Requests of ours that wait deserve another.
create or replace function dlq._wake_sender()
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regprocedure('net.wake()') is not null then
    perform net.wake();
  end if;
end
$$;

comment on function dlq._wake_sender() is 'Makes the sender look at its queue, where it can be told to.';
