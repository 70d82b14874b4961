"""Scatter plots as SVG text: no script, no request, colours from the page, shapes for each plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tokenprune.lab.judge import Result
from tokenprune.lab.report.dodge import dodged
from tokenprune.lab.report.families import cost_of, family, sign

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 18, 46
TICKS = 6

#: Distance of points that are drawn side by side, and how wide a group of them may get.
STEP, SPREAD = 6.0, 36.0

#: Marker outlines in a square of side 2 around the origin; told apart without colour.
MARKERS = (
    "M-1,0A1,1 0 1,0 1,0A1,1 0 1,0 -1,0Z",
    "M-.9,-.9H.9V.9H-.9Z",
    "M0,-1.1L1,.8H-1Z",
    "M0,-1.2L1.1,0L0,1.2L-1.1,0Z",
    "M0,1.1L1,-.8H-1Z",
    "M-.35,-1.1H.35V-.35H1.1V.35H.35V1.1H-.35V.35H-1.1V-.35H-.35Z",
    "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
    "M0,-1.2L.35,-.4H1.2L.5,.15L.75,1L0,.5L-.75,1L-.5,.15L-1.2,-.4H-.35Z",
)


@dataclass(frozen=True)
class Point:
    """One plan in a plot.

    Attributes:
        x: cost.
        y: accuracy.
        low: lower end of its interval.
        high: upper end.
        family: points of one family share marker and colour.
        label: what is shown beside the marker when pointed at.
    """

    x: float
    y: float
    low: float
    high: float
    family: str
    label: str


def point(row: Result, cost: str) -> Point:
    """A row in the plot over one of `COSTS`."""
    x = cost_of(row, cost)
    label = f"{row.name}: {row.accuracy.value:.1%} at {x:.3g}"
    return Point(x, row.accuracy.value, row.accuracy.low, row.accuracy.high, family(row), label)


def scatter(points: Sequence[Point], families: Sequence[str], x: str, y: str) -> str:
    """An SVG of points with error bars and the Pareto front (less x, more y) as a line.

    Points of equal cost stand side by side.

    Args:
        points: at least one.
        families: all families of the page in order, so that plots agree.
        x: what the horizontal axis is.
        y: what the vertical axis is.
    """
    scale = _Scale(points)
    body = [_grid(scale, x, y), _front(points, scale)]
    places = dodged([scale.x(point.x) for point in points], step=STEP, most=SPREAD)
    body += [
        _marker(point, place, families.index(point.family), scale)
        for point, place in zip(points, places, strict=True)
    ]
    title = f"{y} over {x}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        f'class="plot">{"".join(body)}</svg>'
    )


def legend_marker(number: int) -> str:
    """The marker of a family as a little SVG."""
    shape, colour = sign(number)
    return (
        f'<svg viewBox="-1.4 -1.4 2.8 2.8" class="key" aria-hidden="true">'
        f'<path d="{MARKERS[shape]}" class="c{colour} mark"/></svg>'
    )


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other one beats in both cost and accuracy, by ascending cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


class _Scale:
    """From values to places in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.right = max(point.x for point in points) * 1.06 or 1.0
        low = min(point.low for point in points)
        high = max(point.high for point in points)
        room = max((high - low) * 0.06, 0.005)
        self.bottom, self.top = max(low - room, 0.0), min(high + room, 1.0)

    def x(self, value: float) -> float:
        return LEFT + value / self.right * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / ((self.top - self.bottom) or 1.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float, most: int = TICKS) -> list[float]:
    """Round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while (high - low) / step > most:
        # 1 -> 2 -> 5 -> 10
        step *= 2.5 if round(step / 10.0 ** math.floor(math.log10(step) + 1e-9)) == 2 else 2
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(scale: _Scale, x: str, y: str) -> str:
    parts = []
    for value in ticks(scale.bottom, scale.top):
        at = scale.y(value)
        parts.append(f'<path d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}" class="grid"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" class="tick end">{100 * value:g}%</text>'
        )
    for cost in ticks(0.0, scale.right):
        at = scale.x(cost)
        parts.append(f'<path d="M{at:.1f},{HEIGHT - BOTTOM}v4" class="grid"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" class="tick mid">{cost:g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" class="axis mid">{escape(x)}</text>')
    parts.append(
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
        f'class="axis mid">{escape(y)}</text>'
    )
    return "".join(parts)


def _front(points: Sequence[Point], scale: _Scale) -> str:
    places = " ".join(f"{scale.x(p.x):.1f},{scale.y(p.y):.1f}" for p in front(points))
    return f'<polyline points="{places}" class="front"/>'


def _marker(point: Point, x: float, number: int, scale: _Scale) -> str:
    y = scale.y(point.y)
    shape, colour = sign(number)
    low, high = scale.y(max(point.low, scale.bottom)), scale.y(min(point.high, scale.top))
    return (
        f'<g class="c{colour}"><title>{escape(point.label)}</title>'
        f'<path d="M{x:.1f},{low:.1f}V{high:.1f}" class="bar"/>'
        f'<path transform="translate({x:.1f} {y:.1f}) scale(5)" '
        f'd="{MARKERS[shape]}" class="mark"/></g>'
    )
