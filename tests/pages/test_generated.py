"""The generated reference is what the catalog and the command line say now."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dlqctl.bundle import ROOT

GENERATE = ROOT / "docs" / "generate.py"


@pytest.mark.skipif(not GENERATE.exists(), reason="not in a checkout")
def test_the_reference_has_not_drifted() -> None:
    done = subprocess.run([sys.executable, GENERATE, "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
