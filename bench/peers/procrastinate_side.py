"""procrastinate, through its Python API. It keeps its jobs, and takes them one at a time."""

from __future__ import annotations

import sys

import procrastinate
from procrastinate import jobs, manager
from side import PAYLOAD, portions, serve

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=sys.argv[1], min_size=1, max_size=2))


@app.task(name="shop", queue="shop")  # type: ignore[untyped-decorator]
def shop(**payload: object) -> None:
    pass


class Side:
    async def install(self, _count: int) -> None:
        await app.open_async()
        await app.schema_manager.apply_schema_async()
        self.manager: manager.JobManager = app.job_manager
        self.worker = await self.manager.register_worker()

    async def store(self, count: int) -> None:
        for n in portions(count):
            await shop.batch_defer_async(*[PAYLOAD] * n)

    async def turn(self, count: int) -> None:
        for _ in range(count):
            job = await self.manager.fetch_job(queues=["shop"], worker_id=self.worker)
            assert job is not None
            await self.manager.finish_job(job, jobs.Status.SUCCEEDED, delete_job=False)


side = Side()
serve({"install": side.install, "store": side.store, "turn": side.turn})
