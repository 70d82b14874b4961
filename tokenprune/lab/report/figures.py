"""Accuracy over cost as static figures for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenprune.errors import BackendUnavailableError, DataError
from tokenprune.lab.report.dodge import dodged
from tokenprune.lab.report.families import COSTS, cost_of, families, family, sign
from tokenprune.lab.report.plots import front, point
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


def write_figures(groups: Sequence[Group], folder: Path) -> list[Path]:
    """One figure a group and cost, as PNG, SVG and PDF; text stays text.

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
            remedy="Install it: pip install 'tokenprune[report]'; or use --no-figures.",
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
                    found += _saved(_figure(group, cost, known), folder / name)
    except OSError as error:
        raise DataError(f"the figure can't be written ({error}).", where=str(folder)) from error
    return found


def _figure(group: Group, cost: str, known: Sequence[str]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    costs = [cost_of(row, cost) for row in group.rows]
    width = max(costs) or 1.0
    places = dodged(costs, step=0.018 * width, most=0.1 * width)
    for number, name in enumerate(known):
        mine = [at for at, row in enumerate(group.rows) if family(row) == name]
        rows = [group.rows[at] for at in mine]
        if not rows:
            continue
        shape, colour = sign(number)
        y = [100 * row.accuracy.value for row in rows]
        low = [100 * (row.accuracy.value - row.accuracy.low) for row in rows]
        high = [100 * (row.accuracy.high - row.accuracy.value) for row in rows]
        axes.errorbar(
            [places[at] for at in mine],
            y,
            yerr=[low, high],
            fmt=SHAPES[shape],
            color=COLOURS[colour],
            markerfacecolor=(COLOURS[colour], 0.35),
            markeredgecolor=COLOURS[colour],
            markersize=4.5,
            elinewidth=0.7,
            label=name,
        )
    best = front([point(row, cost) for row in group.rows])
    axes.plot([p.x for p in best], [100 * p.y for p in best], "--", color="0.5", linewidth=0.7)
    axes.set_xlim(left=0)
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("accuracy, %")
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    figure.legend(frameon=False, fontsize=7, loc="outside upper center", ncols=3)
    return figure


def _saved(figure: Any, path: Path) -> list[Path]:
    found = []
    for form in FORMATS:
        file = path.with_name(f"{path.name}.{form}")
        # no dates, so that the same records give the same files
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(file, dpi=300, metadata=dates)
        found.append(file)
    return found


def _plain(name: str) -> str:
    """A name as part of a file's: the last part of a path, harmless signs only."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", Path(name).name).strip("-")[:40] or "model"
