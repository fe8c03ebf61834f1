"""What systemd wants to hear of a service with Type=notify, by sd_notify(3): nothing where nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from typing import Any


def notify(state: str) -> None:
    """Tell systemd a state, as in "READY=1"."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())


async def tended(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, saying that it is ready and, as often as the watchdog wants to hear it, that the loop goes round.

    A database that is away or slow is no reason to be killed: what is in flight goes on meanwhile.
    """
    notify("READY=1")
    microseconds = int(os.environ.get("WATCHDOG_USEC") or 0)
    tending = asyncio.create_task(_keep_saying("WATCHDOG=1", microseconds / 3_000_000)) if microseconds else None
    try:
        await work
    finally:
        if tending is not None:
            tending.cancel()


async def _keep_saying(state: str, seconds: float) -> None:
    while True:
        notify(state)
        await asyncio.sleep(seconds)
