"""A dead-letter queue for webhooks that lives in PostgreSQL: installs it, verifies it, asks how it is.

For programs there are `store`, `store_many` and `health`, over a psycopg connection of their own: docs/python.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlqctl.programs import Failure, Finding, Health, Stats, health, store, store_many

__version__ = "0.1.0.dev0"
__all__ = ["Failure", "Finding", "Health", "Stats", "health", "store", "store_many"]


def __getattr__(name: str) -> Any:
    """Load psycopg with the first of these that is asked for: `import dlqctl` alone is quick."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dlqctl import programs

    return getattr(programs, name)
