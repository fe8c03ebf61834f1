"""What an error was, when another came up while it was handled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from dlqctl.errors import is_interrupted


@contextlib.contextmanager
def _failing_on_the_way_out() -> Iterator[None]:
    try:
        yield
    finally:
        raise ValueError


@pytest.mark.parametrize(("first", "was"), [(KeyboardInterrupt(), True), (LookupError(), False)])
def test_what_comes_up_while_ctrl_c_is_handled_is_ctrl_c(first: BaseException, was: bool) -> None:
    assert is_interrupted(first) is was
    with pytest.raises(ValueError) as caught, _failing_on_the_way_out():  # noqa: PT011
        raise first
    assert is_interrupted(caught.value) is was
