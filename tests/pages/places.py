"""What the pages' examples stand for when they are run, who runs them, and what is not run and why.

Every block of every page is run by test_blocks.py, unless it is named here. A name that nothing bears any more fails.
"""

from __future__ import annotations

# Replaced in every shell block, in this order. ID and REPLAY are the ids of an entry, new for each command and in the
# state that it needs, and of a replay.
IN_SHELL = {
    r"https://example\.com/hooks/": "{handlers}",
    r"(?=\bendpoints set\b)(.*(?:\\\n.*)*)": r"\1 --allow-http --allow-private",
    r"(?=\balerts channel set\b)(.*(?:\\\n.*)*)": r"\1 --disable",  # nobody out there is called
    r"dlqctl migrate(?! *--)": "dlqctl migrate --net-worker",
    # Stopped once it has told something, by one signal: timeout would send two. Without set -m it would not hear it.
    r"^(dlqctl health --watch)": r"set -m; \1 >seen & until [ -s seen ]; do sleep 0.1; done; kill -INT $!; wait $!",
    r"^(dlqctl replay (?=.*--reason).*)": r"while sleep 0.1; do dlqctl process; done >log 2>&1 & \1 --yes; kill $!",
    r"\b(replay (?:cancel|continue|watch)) ID\b": r"\1 {replay}",
}

# Files that commands read.
FILES = {
    "payload.json": '{"a": 1}\n',
    "secret.txt": "a-secret-of-the-page\n",
}

# SQL blocks are run as somebody who has dlq_admin; those that begin so, as a superuser.
AS_SUPERUSER = (
    "grant dlq_reader to grafana;",
    "create role dlq_exporter",
    "create role dashboards",
    "revoke all on all tables in schema net from public;",
    "set role dlq_owner;",
    "delete from cron.job_run_details",
)

# What has a test of its own, which takes the blocks from the page: a page or a section, and after a blank a language.
ELSEWHERE = {
    "README.md#in-five-minutes": "tests/pages/test_first_hour.py",
    "README.md#completion": "tests/pages/test_completion.py",
    "docs/adopt.md": "tests/migration/adopt/test_plan.py",
    "docs/copies-and-restores.md": "tests/migration/test_pages.py",
    "docs/handlers.md": "tests/pages/test_handlers.py",
    "docs/managed-servers.md": "tests/migration/test_pages.py",
    "docs/monitoring.md sh": "tests/live/test_prometheus.py",
    "docs/net-worker.md#its-login": "tests/live/test_net_worker_service.py",
    "docs/python.md": "tests/db/test_programs.py",
    "docs/runbook.md": "tests/runbook/test_sections.py",
    "docs/signatures.md": "tests/live/test_handlers.py",
    "docs/supabase.md#install": "tests/migration/test_supabase.py",
    "docs/supabase.md#what-you-have-and-what-it-becomes sh": "tests/migration/test_supabase.py",
    "docs/supabase.md#after-an-upgrade-a-restore-or-in-a-branch": "tests/migration/test_supabase.py",
    "docs/uninstall.md": "tests/migration/test_pages.py",
}

# What cannot be run here, named in the same way.
NOT_RUN = {
    "docs/access.md#signed-in-users ts": "supabase-js needs a project; tests/security/test_claim.py does what it sends",
    "docs/monitoring.md ini": "systemd is not here; the command is run by tests/live/test_prometheus.py",
    "docs/net-worker.md#as-a-service": "it makes a user, a service and files of the machine's",
    "docs/net-worker.md#changing-the-sender": "it needs both senders; tests/migration/test_change_sender.py has them",
    "docs/supabase.md#in-the-handler ts": "supabase-js needs a project; docs/handlers.md has it without, and is run",
    "docs/supabase.md#over-http sh": "PostgREST is not here; tests/migration/test_supabase.py calls both as its role",
    "docs/supabase.md#what-you-have-and-what-it-becomes sql": "Supabase's Vault is not here",
}

# Commands that cannot be run here, by their beginning.
COMMANDS_NOT_RUN = {
    "dlqctl health --nagios": "it exits by how the queue is; tests/live/test_health.py has each",
    "dlqctl health --probe": "it exits by whether the handlers of these pages are there; the same",
    "dlqctl alerts test": "it calls PagerDuty, for which tests/live/test_alerts.py has one of its own",
    "make ": "it runs this suite, or what test_generated.py and tests/live/test_demo.py run",
}
