-- Who may see and touch which rows. What of a row, and by which verb, is for the grants to say.
-- dlq_owner owns the tables and is bound by none of this; anybody else sees nothing without a policy.
create policy admins_do_everything on public.webhook_dlq to dlq_admin using (true) with check (true);
create policy readers_read on public.webhook_dlq for select to dlq_reader using (true);
create policy writers_store on public.webhook_dlq for insert to dlq_writer with check (true);
create policy admins_read on public.dlq_processing_log for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.in_flight for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.delivery_attempts for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.attempt_counts for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.amendments for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.replays for select to dlq_admin using (true);
create policy admins_read on dlq.replayed_entries for select to dlq_admin using (true);
create policy admins_do_everything on dlq.endpoints to dlq_admin using (true) with check (true);
create policy readers_read on dlq.endpoints for select to dlq_reader using (true);
create policy admins_read on dlq.pauses for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.endpoint_state for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.maintenance_log for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.net_workers for select to dlq_admin, dlq_reader using (true);
create policy workers_do_everything on dlq.net_workers to dlq_net_worker using (true) with check (true);
create policy admins_do_everything on dlq.alert_rules to dlq_admin using (true) with check (true);
create policy readers_read on dlq.alert_rules for select to dlq_reader using (true);
create policy admins_do_everything on dlq.alert_channels to dlq_admin using (true) with check (true);
create policy readers_read on dlq.alert_channels for select to dlq_reader using (true);
create policy admins_read on dlq.alert_silences for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.alerts for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.alert_deliveries for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.alert_requests for select to dlq_admin, dlq_reader using (true);
create policy admins_read on dlq.alert_evaluation for select to dlq_admin, dlq_reader using (true);
create policy admins_do_everything on dlq.settings to dlq_admin using (true) with check (true);
create policy readers_read on dlq.settings for select to dlq_reader using (true);
create policy admins_read on dlq.audit_log for select to dlq_admin using (true);
-- Only where there is such a role. The claim is looked up once a statement.
create policy claimants_do_everything on public.webhook_dlq to authenticated
  using ((select dlq._has_admin_claim())) with check ((select dlq._has_admin_claim()));
create policy claimants_read on public.dlq_processing_log for select to authenticated
  using ((select dlq._has_admin_claim()));
