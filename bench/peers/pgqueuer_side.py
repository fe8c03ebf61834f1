"""pgqueuer, through its Python API over psycopg. It keeps a log of what is done."""

from __future__ import annotations

import asyncio
import sys
import uuid
from datetime import timedelta

import psycopg
from pgqueuer.queries import EntrypointExecutionParameter, Queries
from side import BATCH, BODY, portions, serve

QUEUE = {"shop": EntrypointExecutionParameter(concurrency_limit=0)}


class Side:
    async def connect(self) -> None:
        connection = await psycopg.AsyncConnection.connect(sys.argv[1], autocommit=True)
        self.queries = Queries.from_psycopg_connection(connection)
        self.worker = uuid.uuid4()

    async def install(self, _count: int) -> None:
        await self.connect()
        await self.queries.install()

    async def store(self, count: int) -> None:
        for n in portions(count):
            await self.queries.enqueue(["shop"] * n, [BODY.encode()] * n, [0] * n)

    async def turn(self, count: int) -> None:
        done = 0
        while done < count:
            jobs = await self.queries.dequeue(
                batch_size=BATCH,
                entrypoints=QUEUE,
                queue_manager_id=self.worker,
                global_concurrency_limit=None,
                heartbeat_timeout=timedelta(minutes=5),
            )
            if not jobs:
                await asyncio.sleep(0)
                continue
            await self.queries.log_jobs([(job, "successful", None) for job in jobs])
            done += len(jobs)


side = Side()
serve({"install": side.install, "store": side.store, "turn": side.turn})
