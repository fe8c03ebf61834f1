"""A streaming standby of a throw-away server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dlqctl.cluster import Cluster, _as_server_user, _make_folder, find_server


@contextmanager
def standby_of(primary: Cluster) -> Iterator[Cluster]:
    """Copy a running server, start the copy as its standby, and remove it afterwards."""
    pg_basebackup = find_server().bin_dir / "pg_basebackup"
    if not pg_basebackup.exists():
        pytest.skip(f"{pg_basebackup} is not installed")
    folder = _make_folder()
    replica = Cluster(primary.binaries, folder, primary.database, pg_net=False)
    try:
        subprocess.run(
            [pg_basebackup, "-D", folder / "data", "-R", "-c", "fast", "-d", primary.dsn()],
            check=True,
            **_as_server_user(folder),
        )
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{folder}'\n")
        replica.start()
        yield replica
    finally:
        replica.stop()
        shutil.rmtree(folder, ignore_errors=True)
