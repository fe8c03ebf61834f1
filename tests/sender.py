"""A net-worker beside a throw-away server, for as long as a test needs one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dlqctl.cluster import loopback_is_direct


@contextmanager
def net_worker(dsn: str) -> Iterator[None]:
    """Run `dlqctl net-worker` until the block ends."""
    words = [sys.executable, "-m", "dlqctl", "--dsn", dsn, "net-worker"]
    worker = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=os.environ | loopback_is_direct())
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(20)
