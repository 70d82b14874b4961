"""Accuracy over cost as static figures for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenprune.errors import BackendUnavailableError, DataError
from tokenprune.errors.installing import pip_install
from tokenprune.lab.report.families import COSTS, families, sign
from tokenprune.lab.report.labels import beside, placed
from tokenprune.lab.report.points import Point, doublings, front, in_words, lines, point
from tokenprune.lab.studies.summary import Group

FORMATS = ("png", "svg", "pdf")

#: The page's shapes and light colours, in its order.
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
COLOURS = (
    "#1c2126",
    "#0072b2",
    "#b35900",
    "#00735c",
    "#a23b72",
    "#5c4db1",
    "#7a6200",
    "#b2182b",
)

#: Width of one column of most two-column papers, in inches, and a height that fits (ours).
SIZE = (3.4, 2.6)

#: In points: distance of intervals of equal cost, the most that a group of them takes, letters.
STEP, SPREAD, LETTERS = 1.8, 12.0, 5.5


def write_figures(groups: Sequence[Group], folder: Path) -> list[Path]:
    """One figure a group and cost, as PNG, SVG and PDF; text stays text.

    Each says in its metadata what it shows, for those who can't see it.

    Args:
        groups: judged records.
        folder: made if it isn't there.

    Raises:
        BackendUnavailableError: matplotlib isn't installed.
        DataError: a file can't be written.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise BackendUnavailableError(
            "figures need matplotlib.",
            remedy=f"Install it: {pip_install('report')}; or use --no-figures.",
        ) from error
    known, found = families(groups), list[Path]()
    # names of plans are data: a dollar sign in one is no formula
    style = {"svg.fonttype": "none", "pdf.fonttype": 42, "text.parse_math": False}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context({**style, "font.size": 8, "svg.hashsalt": "tokenprune"}):
            for number, group in enumerate(group for group in groups if group.rows):
                for cost in COSTS:
                    name = f"{number + 1}-{_plain(group.model)}-{_plain(group.task)}-{cost}"
                    points = [point(row, cost) for row in group.rows]
                    drawn = draw(points, known, cost)
                    found += _saved(drawn, folder / name, group.title, in_words(points, cost))
    except OSError as error:
        raise DataError(f"the figure can't be written ({error}).", where=str(folder)) from error
    return found


def draw(points: Sequence[Point], known: Sequence[str], cost: str) -> Any:
    """A figure whose points stand at their values; intervals of equal cost are a few points apart.

    Args:
        points: at least one.
        known: all families in order, so that figures agree.
        cost: one of `COSTS`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(known):
        mine = [one for one in points if one.family == name]
        if mine:
            shape, colour = sign(number)
            axes.plot(
                [one.x for one in mine],
                [100 * one.y for one in mine],
                SHAPES[shape],
                color=COLOURS[colour],
                markerfacecolor=(COLOURS[colour], 0.35),
                markersize=4.5,
                label=name,
            )
    for name, places in lines(points):
        shade = COLOURS[sign(known.index(name))[1]]
        axes.plot([x for x, _ in places], [100 * y for _, y in places], color=shade, linewidth=0.8)
    best = front(points)
    axes.plot([p.x for p in best], [100 * p.y for p in best], "--", color="0.5", linewidth=0.7)
    powers = doublings(points, cost)
    if powers:
        axes.set_xscale("log", base=2)
        axes.set_xlim(powers[0] / 1.25, powers[-1] * 1.25)
        axes.set_xticks(powers, [f"{power:g}" for power in powers])
    else:
        axes.set_xlim(0, 1.06 * max(one.x for one in points) or 1.0)
    axes.set_ylim(*_room(points))
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("accuracy, %")
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    figure.legend(frameon=False, fontsize=7, loc="outside upper center", ncols=3)
    _beside_the_markers(figure, axes, points, known)
    return figure


def _room(points: Sequence[Point]) -> tuple[float, float]:
    low, high = min(one.low for one in points), max(one.high for one in points)
    room = max(0.06 * (high - low), 0.005)
    return 100 * (low - room), 100 * (high + room)


def _beside_the_markers(
    figure: Any, axes: Any, points: Sequence[Point], known: Sequence[str]
) -> None:
    """Intervals and the labels of the budgets, once the axes have their place on the paper."""
    from matplotlib.transforms import ScaledTranslation

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what comes now must not move the axes
    inches = figure.dpi_scale_trans
    at = inches.inverted().transform(
        axes.transData.transform([(one.x, 100 * one.y) for one in points])
    )
    places = [(72 * float(x), -72 * float(y)) for x, y in at]  # points of the paper, downwards
    apart = beside([x for x, _ in places], step=STEP, most=SPREAD)
    for one, aside in zip(points, apart, strict=True):
        moved = axes.transData + ScaledTranslation(aside / 72, 0, inches)
        colour = COLOURS[sign(known.index(one.family))[1]]
        ends = (100 * one.low, 100 * one.high)
        axes.plot([one.x, one.x], ends, color=colour, linewidth=0.7, alpha=0.7, transform=moved)
    texts = [one.budget for one in points]
    middles = placed(places, texts, LETTERS)
    for one, place, middle in zip(points, places, middles, strict=True):
        if middle is not None:
            axes.annotate(
                one.budget,
                (one.x, 100 * one.y),
                (middle[0] - place[0], place[1] - middle[1]),
                textcoords="offset points",
                fontsize=LETTERS,
                color="0.35",
                ha="center",
                va="center",
            )


def _saved(figure: Any, path: Path, title: str, told: str) -> list[Path]:
    # no dates, so that the same records give the same files
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Title": title, "Description": told},
        "svg": {"Title": title, "Description": told, "Date": None},
        "pdf": {"Title": title, "Subject": told, "CreationDate": None},
    }
    found = []
    for form in FORMATS:
        file = path.with_name(f"{path.name}.{form}")
        figure.savefig(file, dpi=300, metadata=metadata[form])
        found.append(file)
    return found


def _plain(name: str) -> str:
    """A name as part of a file's: the last part of a path, harmless signs only."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", Path(name).name).strip("-")[:40] or "model"
