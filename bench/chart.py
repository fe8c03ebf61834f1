"""Line charts as SVG, both axes logarithmic: what the pages in docs/ show. By hand, since it is so little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 40, 52
# Told apart by those who do not see all colours (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


@dataclass(frozen=True)
class Series:
    """One line: its name, and its points."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(title: str, across: str, up: str, series: Sequence[Series]) -> str:
    """Draw the lines, each named at its end. All values are positive; both axes go by powers of ten."""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    left, right = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (math.log10(x) - left) / max(1, right - left) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (math.log10(y) - low) / max(1, high - low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 22, title, size=15),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, across, anchor="middle"),
        _text(12, _TOP - 8, up),
    ]
    for power in range(low, high + 1):
        x, y = at(10**left, 10**power)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(x - 8, y + 4, f"{10**power:g}", anchor="end"))
    for power in range(left, right + 1):
        x, y = at(10**power, 10**low)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{y:.0f}" stroke="#eee"/>')
        parts.append(_text(x, y + 18, f"{10**power:,}" if power >= 0 else f"{10**power:g}", anchor="middle"))
    names = _apart([at(*line.points[-1])[1] for line in series])
    for nth, line in enumerate(series):
        colour = _COLOURS[nth % len(_COLOURS)]
        places = [at(*point) for point in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(_text(_WIDTH - _RIGHT + 10, names[nth] + 4, line.name, colour=colour))
    return "\n".join((*parts, "</svg>")) + "\n"


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, colour: str = "#333") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{colour}">{escape(words)}</text>'


def _apart(heights: Sequence[float], distance: float = 15) -> list[float]:
    """The same heights in the same order, moved down where two would lie on each other."""
    moved = list(heights)
    last = -math.inf
    for nth in sorted(range(len(heights)), key=lambda n: heights[n]):
        moved[nth] = last = max(heights[nth], last + distance)
    return moved
