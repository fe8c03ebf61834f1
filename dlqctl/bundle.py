"""Where the bundle's files are: `migrations/` and `sql/`, in a checkout or inside the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_bundle"

ROOT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
MIGRATIONS = ROOT / "migrations"
SQL = ROOT / "sql"
