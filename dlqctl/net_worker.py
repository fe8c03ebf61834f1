"""The pg_net-compatible worker, for servers without pg_net: claims requests, sends them, writes the answers.

A worker is one process, one connection and one asyncio loop, so that HTTP goes on while the database is slow
or away. Several share a queue, on one machine or on many: net_queue says how, net_http what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import sys
import time

import psycopg

from dlqctl.connection import connect, resolve_dsn
from dlqctl.errors import DlqctlError, UsageError
from dlqctl.net_http import Answer, Sender, require_pycurl
from dlqctl.net_queue import Queue, require_queue, require_session
from dlqctl.service import notify, tended

CONCURRENCY = 1000
POLL_SECONDS = 1.0
DRAIN_SECONDS = 10.0
CLAIM_ROWS = 250
BEAT_SECONDS = 10.0
BACKOFF_SECONDS = (0.1, 5.0)
# What has lasted so long begins its backoff anew.
STEADY_SECONDS = 10.0


def run(dsn: str | None = None, *, workers: int = 1, concurrency: int = CONCURRENCY, is_child: bool = False) -> None:
    """Serve the queue of the database that `dsn` means, until SIGTERM or SIGINT.

    `workers` processes send up to `concurrency` requests at a time each. At the signal they claim no more, wait
    up to ten seconds for what is in flight, write the answers and give back the rest; a second signal ends them
    at once. A lost connection is made again, for ever. `is_child` is for the processes that run() itself starts:
    such a one also stops when its standard input ends.

    On a copy of production it sends nothing until that is declared production.

    Raises DlqctlError if there is no pycurl, no queue to serve, no right to serve it, pg_net to serve it, or a
    pooler in transaction mode before it; CannotConnect if the first connection fails.
    """
    if workers < 1 or concurrency < 1:
        raise UsageError("there must be a worker and a slot", "--workers 1 --concurrency 1000, or leave them out")
    require_pycurl()
    with connect(dsn, autocommit=True) as conn:
        require_queue(conn)
        require_session(conn, resolve_dsn(dsn))
    if workers > 1:
        asyncio.run(tended(_supervise(resolve_dsn(dsn), workers, concurrency)))
    else:
        asyncio.run(tended(_Worker(resolve_dsn(dsn), _slots(concurrency)).run(is_child)))


def _slots(concurrency: int) -> int:
    """Raise the limit on open files to what so many connections need. Returns how many it allows."""
    spare = 64
    wanted = concurrency + spare
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return concurrency
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log(f"only {allowed} open files are allowed (ulimit -Hn): fewer slots")
    return max(1, allowed - spare)


class _Worker:
    def __init__(self, dsn: str, slots: int) -> None:
        self._dsn = dsn
        self._slots = slots
        self._number = random.randrange(1, 1 << 31)
        self._answers: dict[int, Answer] = {}
        self._is_due = True  # whether there may be something to claim
        self._after = 0  # claims go on from here, past what was deleted; each poll begins at the start again
        self._stop_at: float | None = None
        self._answered = 0
        self._beat_at = 0.0
        self._held: str | None = None  # why nothing may be sent
        self._mute: str | None = None  # why there is no heartbeat

    async def run(self, is_child: bool) -> None:
        """Serve until told to stop, over as many connections as it takes."""
        loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._sender = Sender(self._slots, self._keep)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop)
        if is_child:
            loop.add_reader(sys.stdin.fileno(), self._parent_is_gone)
        delay, trouble = BACKOFF_SECONDS[0], ""
        while not self._is_over():
            began = time.monotonic()
            try:
                queue = await self._open()
                try:
                    _log(f"{'connected again to' if trouble else 'started on'} {queue.place()}, {self._slots} slots")
                    trouble = ""
                    await self._serve(queue)
                    break
                finally:
                    await queue.close()
            except (psycopg.Error, DlqctlError) as error:
                line = " ".join(str(error).split())
                if line != trouble:
                    _log(f"reconnecting: {line}")
                trouble = line
            if time.monotonic() - began > STEADY_SECONDS:
                delay = BACKOFF_SECONDS[0]
            until = time.monotonic() + delay
            while time.monotonic() < until and not self._is_over():
                await asyncio.sleep(0.05)
            delay = min(2 * delay, BACKOFF_SECONDS[1])
        self._sender.close()
        _log(f"stopped, {len(self._answers)} answers unwritten" if self._answers else "stopped")

    async def _open(self) -> Queue:
        """Connect, and forget what has been freed or is gone since the last connection."""
        queue = await Queue.open(self._dsn, self._number)
        try:
            mine = await queue.mine()
            for request_id in self._sender.in_flight.keys() - mine:
                self._sender.abandon(request_id)
            self._answers = {key: answer for key, answer in self._answers.items() if key in mine}
            # A claim whose rows did not arrive here.
            await queue.release([*self._sender.in_flight, *self._answers])
            self._beat_at = 0.0  # this may be another server
        except BaseException:
            await queue.close()
            raise
        return queue

    async def _serve(self, queue: Queue) -> None:
        """Write, claim, wait. Returns when told to stop, and done."""
        poll_at = 0.0
        while True:
            self._wake.clear()
            await self._write(queue)
            if self._is_over():
                break
            if self._stop_at is None:
                if time.monotonic() >= poll_at:
                    await queue.tidy()
                    await self._look_around(queue)
                    self._after, self._is_due = 0, True
                    poll_at = time.monotonic() + POLL_SECONDS
                await self._claim(queue)
            await self._wait(queue, poll_at if self._stop_at is None else self._stop_at)
        for request_id in list(self._sender.in_flight):
            self._sender.abandon(request_id)
        await queue.release([])
        await self._beat(queue, is_last=True)

    async def _look_around(self, queue: Queue) -> None:
        """Say that this worker lives, and see whether it may send: every ten seconds, and each second while not."""
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + BEAT_SECONDS
            mute = await self._beat(queue)
            if mute and mute != self._mute:
                _log(f"no heartbeat: {mute}")
            self._mute = mute
        elif self._held is None:
            return
        held = await queue.why_not_sending()
        if held != self._held:
            _log(f"sending nothing: {held}" if held else "sending again")
        self._held = held

    async def _beat(self, queue: Queue, *, is_last: bool = False) -> str | None:
        return await queue.beat(
            slots=self._slots, in_flight=len(self._sender.in_flight), answered=self._answered, is_last=is_last
        )

    async def _write(self, queue: Queue) -> None:
        written = list(self._answers.values())
        await queue.write(written)
        self._answered += len(written)
        for answer in written:
            if self._answers.get(answer.id) is answer:
                del self._answers[answer.id]

    async def _claim(self, queue: Queue) -> None:
        limit = min(CLAIM_ROWS, self._slots - len(self._sender.in_flight))
        if not self._is_due or limit < 1 or self._held:
            return
        requests = await queue.claim(self._after, limit)
        self._is_due = len(requests) == limit
        if self._is_due:
            self._wake.set()
        for request in requests:
            # Known already: then it was freed meanwhile, or the queue was emptied and this is another one.
            self._answers.pop(request.id, None)
            self._sender.send(request)
            self._after = request.id

    async def _wait(self, queue: Queue, until: float) -> None:
        """Wait for an answer, a notification, a signal, or `until`."""
        loop = asyncio.get_running_loop()
        if not queue.was_notified():
            loop.add_reader(queue.fileno(), self._wake.set)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    await self._wake.wait()
            loop.remove_reader(queue.fileno())
            if not queue.was_notified():
                return
        self._after, self._is_due = 0, True

    def _keep(self, answer: Answer) -> None:
        self._answers[answer.id] = answer
        self._wake.set()

    def _stop(self) -> None:
        if self._stop_at is not None:
            os._exit(1)
        self._stop_at = time.monotonic() + DRAIN_SECONDS
        self._wake.set()
        notify("STOPPING=1")
        _log(f"stopping, {len(self._sender.in_flight)} requests in flight")

    def _parent_is_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        if self._stop_at is None:
            self._stop()

    def _is_over(self) -> bool:
        if self._stop_at is None:
            return False
        return time.monotonic() >= self._stop_at or not (self._sender.in_flight or self._answers)


def _log(line: str) -> None:
    # One write a line: print() makes two of it, and the lines of several workers run into each other.
    sys.stderr.write(f"net-worker[{os.getpid()}]: {line}\n")
    sys.stderr.flush()


async def _supervise(dsn: str, workers: int, concurrency: int) -> None:
    """Keep so many processes running; pass signals on, and return when all have ended after the first."""
    command = [sys.executable, "-m", "dlqctl.net_worker", str(concurrency)]
    # The password is not for the process list, and what systemd wants to hear is ours to say.
    environment = {**os.environ, "DLQCTL_DATABASE_URL": dsn, "NOTIFY_SOCKET": "", "WATCHDOG_USEC": ""}
    children: set[asyncio.subprocess.Process] = set()
    stopping = asyncio.Event()

    def pass_on() -> None:
        notify("STOPPING=1")
        stopping.set()
        for child in children:
            child.terminate()

    async def keep_one() -> None:
        delay = BACKOFF_SECONDS[0]
        while not stopping.is_set():
            began = time.monotonic()
            # In a session of its own, or Ctrl-C would reach it twice. Its standard input ends when we do.
            child = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, env=environment, start_new_session=True
            )
            children.add(child)
            if stopping.is_set():
                child.terminate()
            status = await child.wait()
            children.discard(child)
            if stopping.is_set():
                return
            _log(f"worker {child.pid} ended with status {status}: starting another")
            if time.monotonic() - began > STEADY_SECONDS:
                delay = BACKOFF_SECONDS[0]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), delay)
            delay = min(2 * delay, BACKOFF_SECONDS[1])

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, pass_on)
    await asyncio.gather(*(keep_one() for _ in range(workers)))


if __name__ == "__main__":
    # A child of _supervise(): the database is in the environment.
    try:
        run(concurrency=int(sys.argv[1]), is_child=True)
    except DlqctlError as failure:
        _log(f"{failure.message} ({failure.hint})")
        sys.exit(failure.exit_code)
