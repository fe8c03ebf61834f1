"""Grafana's dashboard: each query, run as dlq_reader, gives what its panel draws; the file is of Grafana's types.

The macros and variables are replaced as Grafana and its PostgreSQL data source replace them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dlqctl.bundle import ROOT
from tests.db.conftest import Queue

FILE = ROOT / "monitoring" / "grafana" / "dashboard.json"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="not in a checkout")

NOTHING = '{"panels": [], "templating": {"list": []}}'
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text() if FILE.exists() else NOTHING)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def as_grafana_sends(query: str, services: tuple[str, ...] = (), interval: int = 60) -> str:
    """Replace variables and macros. No services: all of them, which is the variable's allValue as it stands."""
    until = datetime.now(UTC) + timedelta(minutes=1)
    since = until - timedelta(hours=24)
    times = tuple(f"'{time:%Y-%m-%dT%H:%M:%SZ}'" for time in (since, until))
    chosen = ",".join(f"'{service}'" for service in services) or VARIABLES["service"]["allValue"]
    query = query.replace("${service:sqlstring}", chosen).replace("$__interval", f"{interval}s")
    query = re.sub(r"\$__timeFilter\(([^)]*)\)", rf"\1 BETWEEN {times[0]} AND {times[1]}", query)
    query = re.sub(r"\$__timeGroup\(([^),]*),\s*(\d+)s\)", r"floor(extract(epoch from \1)/\2)*\2", query)
    query = query.replace("$__timeFrom()", times[0]).replace("$__timeTo()", times[1])
    assert "$" not in query, query
    return query


@pytest.fixture
def reader(queue: Queue) -> Queue:
    """A queue with something of everything, asked as dlq_reader."""
    queue.attempt(queue.store())
    queue.attempt(queue.store(), 410)
    queue.attempt(queue.store(), 500)
    queue.endpoint("till")
    queue.send(queue.store("till"))
    queue.store("nowhere")
    queue.conn.execute("select dlq.pause('a test', 'till')")
    for _ in range(2):
        queue.conn.execute("select process_dlq_entries()")
    queue.conn.execute("set role dlq_reader")
    return queue


@pytest.mark.parametrize("services", [(), ("shop", "till")], ids=["all", "some"])
def test_each_panel_gets_rows_of_its_shape(reader: Queue, services: tuple[str, ...]) -> None:
    for panel in PANELS:
        _check_shape(reader, panel, services)


def _check_shape(reader: Queue, panel: dict[str, Any], services: tuple[str, ...]) -> None:
    (target,) = panel["targets"]
    cursor = reader.conn.execute(as_grafana_sends(target["rawSql"], services).encode())
    rows = cursor.fetchall()
    columns = [column.name for column in cursor.description or ()]
    types = dict(zip(columns, (column.type_display for column in cursor.description or ()), strict=True))
    assert rows, panel["title"]
    assert len(set(columns)) == len(columns)
    named = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    assert named <= set(columns)
    if panel["type"] == "timeseries":
        assert target["format"] == "time_series"
        assert types.pop("time") == "timestamptz"
        assert [row[columns.index("time")] for row in rows] == sorted(row[columns.index("time")] for row in rows)
        assert types.pop("metric", "text") == "text"
        assert set(types.values()) == {"float8"}
        assert any(value is not None for row in rows for value in row[1:])
        return
    assert target["format"] == "table"
    if panel["type"] == "stat":
        ((value,),) = rows
        assert set(types.values()) == {"float8"}
        assert value is not None
    elif panel["type"] == "barchart":
        assert types.pop(panel["options"]["xField"]) == "text"
        assert set(types.values()) == {"float8"}
    else:
        assert panel["type"] == "table"


def _value(queue: Queue, title: str) -> Any:
    (panel,) = [panel for panel in PANELS if panel["title"] == title]
    rows = queue.conn.execute(as_grafana_sends(panel["targets"][0]["rawSql"]).encode()).fetchall()
    return rows[-1][-1]


def test_the_numbers_are_the_views(reader: Queue) -> None:
    assert _value(reader, "Waiting") == reader.one("select sum(pending) from dlq.backlog") == 2
    assert _value(reader, "Backlog") == reader.one("select pending + in_flight from dlq.activity") == 3
    assert _value(reader, "Failed within the hour") == 1
    assert _value(reader, "Success within a day") == pytest.approx(1 / 3)
    assert _value(reader, "Services not well") == 2


def test_an_empty_queue_has_no_query_that_fails(queue: Queue) -> None:
    queue.conn.execute("delete from dlq.endpoints")
    queue.conn.execute("set role dlq_reader")
    for panel in PANELS:
        queue.conn.execute(as_grafana_sends(panel["targets"][0]["rawSql"]).encode())


def test_the_variable_offers_the_services_that_there_are(reader: Queue) -> None:
    offered = reader.conn.execute(VARIABLES["service"]["query"].encode()).fetchall()
    assert offered == [("nowhere",), ("shop",), ("till",)]


def test_panels_do_not_overlap_and_what_failed_leads_to_the_runbook() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        grid = panel["gridPos"]
        cells = {(grid["x"] + i, grid["y"] + j) for i in range(grid["w"]) for j in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    links = {
        panel["title"]: re.findall(r'"url": "([^"]+)"', json.dumps(panel["fieldConfig"]["overrides"]))
        for panel in PANELS
    }
    assert links["Failed entries"] == ["${runbook}#failed"]
    assert links["Health"] == ["${runbook}#${__value.raw}"]


# A string where the types have an enum of strings is what JSON can say; all else is as they have it.
TYPES = """
import type {{ Dashboard, Panel }} from "@grafana/schema";
{imports}
type Plain<T> = T extends string ? `${{T}}` : T extends Array<infer U> ? Plain<U>[]
  : T extends object ? {{ [K in keyof T]: Plain<T[K]> }} : T;
export const dashboard: Plain<Dashboard> = {dashboard};
{parts}
"""


def test_the_file_is_of_grafanas_published_types(tmp_path: Path) -> None:
    node_modules = Path(os.environ.get("DLQCTL_GRAFANA_TYPES", "none")) / "node_modules"
    node = shutil.which("node")
    if node is None or not (node_modules / "@grafana" / "schema").exists():
        pytest.skip("npm install @grafana/schema@11 typescript@5, and DLQCTL_GRAFANA_TYPES names the folder")
    kinds = {"stat": "StatPanelCfg", "table": "TablePanelCfg", "timeseries": "TimeSeriesPanelCfg"}
    kinds["barchart"] = "BarChartPanelCfg"
    where = "@grafana/schema/dist/esm/raw/composable"
    imports = [
        f'import type * as {kind} from "{where}/{kind}/panelcfg/x/{kinds[kind]}_types.gen.d.ts";'
        for kind in sorted({panel["type"] for panel in PANELS})
    ]
    parts = []
    for panel in PANELS:
        kind, defaults = panel["type"], panel["fieldConfig"]["defaults"]
        parts.append(f"export const o{panel['id']}: Plain<{kind}.Options> = {json.dumps(panel['options'])};")
        if "custom" in defaults:
            custom = json.dumps(defaults["custom"])
            parts.append(f"export const c{panel['id']}: Plain<Partial<{kind}.FieldConfig>> = {custom};")
    text = TYPES.format(imports="\n".join(imports), dashboard=json.dumps(DASHBOARD), parts="\n".join(parts))
    (tmp_path / "dashboard.ts").write_text(text)
    (tmp_path / "node_modules").symlink_to(node_modules)
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext"]
    done = subprocess.run(
        [node, node_modules / "typescript" / "bin" / "tsc", *options, "dashboard.ts"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
