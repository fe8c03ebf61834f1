"""What the Python sides share: commands come in as lines, and each is answered with the seconds that it took.

    install          make its tables
    store N          store so many that are due, 1,000 at a time
    turn N           take 100 at a time and settle them, until so many are done

It runs in an environment of its own, without this project: only the standard library and the peer are there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

BATCH = 100
PAYLOAD = {"n": 1, "text": "x" * 870}
BODY = json.dumps(PAYLOAD)


def portions(count: int) -> list[int]:
    """So many in portions of 1,000."""
    return [min(1000, count - done) for done in range(0, count, 1000)]


def serve(commands: dict[str, Callable[[int], Awaitable[None]]]) -> None:
    asyncio.run(_serve(commands))


async def _serve(commands: dict[str, Callable[[int], Awaitable[None]]]) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, *count = line.split()
        began = time.perf_counter()
        await commands[name](int(count[0]) if count else 0)
        print(time.perf_counter() - began, flush=True)
