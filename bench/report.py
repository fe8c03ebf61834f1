"""What a benchmark says: tables as text, the same as JSON, ratios beside their goals, and under which conditions."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.plans import Plan, Planwatch
from bench.world import Connection, print_table

FOLDER = Path("build/bench")
SETTINGS = ("server_version", "shared_buffers", "max_wal_size", "fsync", "synchronous_commit", "pg_net.batch_size")


@dataclass
class Report:
    """One script's results. Prints as they come; save() writes them to build/bench/NAME.json."""

    name: str
    question: str
    conditions: dict[str, Any] = field(default_factory=dict)
    tables: list[dict[str, Any]] = field(default_factory=list)
    ratios: list[dict[str, Any]] = field(default_factory=list)
    kept_plans: dict[str, dict[str, list[Plan]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.conditions |= {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain") else ""),
            "machine": f"{_processor()}, {os.cpu_count()} cores",
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "python": platform.python_version(),
            "load_before": [round(part, 1) for part in os.getloadavg()],
        }
        print(f"{self.question}\n")

    def server(self, conn: Connection) -> None:
        """Note what the server is and how it is set."""
        found = "select name, current_setting(name) from pg_settings where name = any(%s)"
        self.conditions |= dict(conn.execute(found, (list(SETTINGS),)).fetchall())
        version = conn.execute("select extversion from pg_extension where extname = 'pg_net'").fetchone()
        self.conditions["pg_net"] = version[0] if version else None

    def table(self, title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table in Markdown, and keep it."""
        kept = [[str(cell) for cell in row] for row in rows]
        self.tables.append({"title": title, "heads": list(heads), "rows": kept})
        print(f"\n**{title}**\n")
        print_table(heads, kept)

    def plans(self, title: str, watch: Planwatch) -> None:
        """Print what a round has read and how, and keep its plans."""
        self.table(title, ("", "of", "by", "rows", "times", "pages"), watch.reads())
        self.kept_plans[title] = watch.plans

    def ratio(self, name: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> bool:
        """Print a ratio beside its goal, and keep it. Returns whether it is reached."""
        reached = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        goal = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
        self.ratios.append({"name": name, "value": value, "at_most": at_most, "at_least": at_least, "reached": reached})
        print(f"{'reached' if reached else 'NOT REACHED'}: {name} {value:.2f}, {goal}", flush=True)
        return reached

    def save(self) -> None:
        """Print the conditions, and write everything as JSON."""
        self.conditions["load_after"] = [round(part, 1) for part in os.getloadavg()]
        print("\n" + "; ".join(f"{name} {value}" for name, value in self.conditions.items()))
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{self.name}.json"
        parts = {"question": self.question, "conditions": self.conditions, "tables": self.tables, "ratios": self.ratios}
        parts["plans"] = self.kept_plans
        path.write_text(json.dumps(parts, indent=1, default=str) + "\n")
        print(f"({path})\n", flush=True)


def tell(words: str) -> None:
    """Say how it goes, beside the results."""
    print(f"  {words}", file=sys.stderr, flush=True)


def median_us(times: Sequence[float], per: int = 1) -> float:
    """The median, in microseconds for each of `per`."""
    return statistics.median(times) * 1e6 / per


def quantile(times: Sequence[float], share: float) -> float:
    """The time that this share of them does not exceed."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
