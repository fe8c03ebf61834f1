"""`dlqctl net-worker` as a process, for tests of something else that need a sender."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dlqctl.cluster import loopback_is_direct


def start_net_worker(dsn: str) -> subprocess.Popen[bytes]:
    """Start one for a database, and leave it to the caller to end it."""
    return subprocess.Popen(
        [sys.executable, "-m", "dlqctl", "--dsn", dsn, "net-worker"],
        env={**os.environ, **loopback_is_direct()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def net_worker(dsn: str) -> Iterator[None]:
    """Run one for a database until the block ends; skip without pycurl. It sends what is queued by then."""
    pytest.importorskip("pycurl", reason="the net-worker's extra is not installed: dlqctl[net-worker]")
    worker = start_net_worker(dsn)
    try:
        yield
        worker.terminate()
        worker.wait(30)
    finally:
        worker.kill()
        worker.wait()
