"""How metrics are written, and how they get into a file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dlqctl.errors import DlqctlError
from dlqctl.metrics import exposition, replace


def test_a_name_is_told_of_once_before_its_samples() -> None:
    samples = [
        ("dlq_a", "gauge", "Of a.", {"service": "shop", "database": "x"}, 1.0),
        ("dlq_a", "gauge", "Of a.", {"service": "till", "database": "x"}, 0.25),
        ("dlq_b_total", "counter", "Of b.", {}, 1e15),
    ]
    assert exposition(samples).splitlines() == [
        "# HELP dlq_a Of a.",
        "# TYPE dlq_a gauge",
        'dlq_a{database="x",service="shop"} 1',
        'dlq_a{database="x",service="till"} 0.25',
        "# HELP dlq_b_total Of b.",
        "# TYPE dlq_b_total counter",
        "dlq_b_total{} 1000000000000000",
    ]


def test_what_would_end_a_value_or_a_line_is_escaped() -> None:
    text = exposition([("dlq_a", "gauge", 'A "b"\\\nc', {"check": 'a "b"\\\nc'}, 1.0)])
    assert text == '# HELP dlq_a A "b"\\\\\\nc\n# TYPE dlq_a gauge\ndlq_a{check="a \\"b\\"\\\\\\nc"} 1\n'


def test_a_file_is_replaced_in_one_step_and_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "dlq.prom"
    path.write_text("old")
    with path.open() as reading:
        replace(path, "new\n")
        assert reading.read() == "old"  # another file: whoever reads the old one reads it to its end
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DlqctlError, match="cannot write"):
        replace(tmp_path / "folder", "new\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
    with pytest.raises(DlqctlError, match="cannot write"):
        replace(tmp_path / "none" / "dlq.prom", "new\n")
