"""How the server goes about a statement, and about those in the functions that it calls: auto_explain tells."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psycopg

from bench.quiet import Stopwatch

Plan = dict[str, Any]
"""A node of a plan, as `explain (format json, analyze, buffers)` writes it: its children are in "Plans"."""


def explain(conn: psycopg.Connection[Any]) -> None:
    """Have a session tell of each plan that it runs, from now on. Needs a superuser."""
    conn.execute("load 'auto_explain'")
    for setting in ("log_min_duration = 0", "log_nested_statements = on", "log_format = json", "log_analyze = on"):
        conn.execute(f"set auto_explain.{setting}".encode())
    conn.execute("set auto_explain.log_buffers = on")
    conn.execute("set client_min_messages = log")


def plans(conn: psycopg.Connection[Any], work: Callable[[], object]) -> list[Plan]:
    """The plans that are run while work() is done, innermost first, in a session given to explain()."""
    found: list[Plan] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        if match := re.search(r"plan:\n(\{.*\})", diagnostic.message_primary or "", re.S):
            found.append(json.loads(match[1])["Plan"])

    conn.add_notice_handler(note)
    try:
        work()
    finally:
        conn.remove_notice_handler(note)
    return found


def every_node(found: Iterable[Plan]) -> Iterator[Plan]:
    """Every node of plans, parents first."""
    for plan in found:
        yield plan
        yield from every_node(plan.get("Plans", []))


class Planwatch(Stopwatch):
    """Takes a stopwatch's place for a round, and notes plans instead of times."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        super().__init__(conn)
        explain(conn)
        self.plans: dict[str, list[Plan]] = {}

    def time(self, name: str, work: Callable[[], object]) -> None:
        """Do the work, and keep its plans under a name."""
        self.plans.setdefault(name, []).extend(plans(self.conn, work))

    def reads(self) -> list[tuple[object, ...]]:
        """What each part read: relation, way, rows, times, pages; most pages first."""
        rows: list[tuple[object, ...]] = []
        for part, found in self.plans.items():
            seen: dict[tuple[str, str], list[int]] = {}
            for node in every_node(found):
                if "Scan" in node["Node Type"] and "Relation Name" in node and node["Actual Loops"]:
                    way = " ".join(filter(None, (node["Node Type"], node.get("Index Name"))))
                    figures = seen.setdefault((node["Relation Name"], way), [0, 0, 0])
                    figures[0] += node["Actual Rows"] * node["Actual Loops"]
                    figures[1] += node["Actual Loops"]
                    figures[2] += node["Shared Hit Blocks"] + node["Shared Read Blocks"]
            ordered = sorted(seen.items(), key=lambda item: -item[1][2])
            rows += [(part, *how, *(f"{figure:,}" for figure in figures)) for how, figures in ordered]
        return rows
