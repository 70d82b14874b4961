"""Scatter plots as SVG text: no script, no request, colours from the page, shapes for each plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tokenprune.lab.report.families import COSTS, sign
from tokenprune.lab.report.labels import beside, placed
from tokenprune.lab.report.points import Point, doublings, front, in_words, lines

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 18, 46
TICKS = 6

#: Distance of intervals of points of equal cost, and how wide a group of them may get.
STEP, SPREAD = 3.0, 24.0

#: Height of the labels' letters.
LABEL = 9.0

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


def scatter(points: Sequence[Point], families: Sequence[str], cost: str) -> str:
    """An SVG of accuracy over a cost: points, intervals, a line a method, and the Pareto front.

    Points stand at their values. Intervals of points of equal cost are a little apart.

    Args:
        points: at least one.
        families: all families of the page in order, so that plots agree.
        cost: one of `COSTS`.
    """
    scale = _Scale(points, doublings(points, cost))
    body = [_grid(scale, COSTS[cost], "accuracy"), _front(points, scale)]
    body += [_line(places, families.index(name), scale) for name, places in lines(points)]
    at = [(scale.x(point.x), scale.y(point.y)) for point in points]
    apart = beside([x for x, _ in at], step=STEP, most=SPREAD)
    body += [
        _marker(point, x + aside, families.index(point.family), scale)
        for point, (x, _), aside in zip(points, at, apart, strict=True)
    ]
    texts = [point.budget for point in points]
    for text, middle in zip(texts, placed(at, texts, LABEL), strict=True):
        if middle is not None:
            x, y = middle
            body.append(
                f'<text x="{x:.1f}" y="{y + 3:.1f}" class="budget mid">{escape(text)}</text>'
            )
    told = escape(in_words(points, cost))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}" '
        f'class="plot">{"".join(body)}</svg>'
    )


def legend_marker(number: int) -> str:
    """The marker of a family as a little SVG."""
    shape, colour = sign(number)
    return (
        f'<svg viewBox="-1.4 -1.4 2.8 2.8" class="key" aria-hidden="true">'
        f'<path d="{MARKERS[shape]}" class="c{colour} mark"/></svg>'
    )


class _Scale:
    """From values to places in the picture."""

    def __init__(self, points: Sequence[Point], powers: Sequence[float]) -> None:
        self.right = max(point.x for point in points) * 1.06 or 1.0
        self.powers = powers
        low = min(point.low for point in points)
        high = max(point.high for point in points)
        room = max((high - low) * 0.06, 0.005)
        self.bottom, self.top = max(low - room, 0.0), min(high + room, 1.0)

    @property
    def ticks(self) -> Sequence[float]:
        """Of the horizontal axis."""
        return self.powers or ticks(0.0, self.right)

    def x(self, value: float) -> float:
        share = value / self.right
        if self.powers:
            low, high = math.log2(self.powers[0]) - 0.3, math.log2(self.powers[-1]) + 0.3
            share = (math.log2(value) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / ((self.top - self.bottom) or 1.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    while (high - low) / step > TICKS:
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
    for cost in scale.ticks:
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


def _line(places: Sequence[tuple[float, float]], number: int, scale: _Scale) -> str:
    joined = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in places)
    return f'<polyline points="{joined}" class="c{sign(number)[1]} joined"/>'


def _marker(point: Point, bar: float, number: int, scale: _Scale) -> str:
    """A marker at its values, and its interval at the place `bar` on the axis."""
    x, y = scale.x(point.x), scale.y(point.y)
    shape, colour = sign(number)
    low, high = scale.y(max(point.low, scale.bottom)), scale.y(min(point.high, scale.top))
    return (
        f'<g class="c{colour}"><title>{escape(point.label)}</title>'
        f'<path d="M{bar:.1f},{low:.1f}V{high:.1f}" class="bar"/>'
        f'<path transform="translate({x:.1f} {y:.1f}) scale(5)" '
        f'd="{MARKERS[shape]}" class="mark"/></g>'
    )
