"""A comparison as tables for people."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tokenprune.lab.compare.record import Comparison
from tokenprune.lab.judge.result import Result
from tokenprune.lab.judge.tables import name_of, terminal_tables, warning_lines
from tokenprune.lab.measure.entries import MAIN
from tokenprune.lab.measure.statistics import Interval


def tables(comparison: Comparison, width: int, *, types: bool = False) -> list[RenderableType]:
    """What is printed: one group of rows after the other, then what to know about them.

    Args:
        comparison: the record.
        width: of the terminal.
        types: also a table of accuracies by question type.
    """
    main = [result for result in comparison.results if result.run.entry.group == MAIN]
    title = f"{comparison.model['name']}: {MAIN}"
    shown: list[RenderableType] = [*terminal_tables(title, [comparison.dense, *main], width)]
    if len(main) < len(comparison.results):
        shown.append(positions_table(comparison))
    if comparison.probe:
        shown.append(probe_table(comparison))
    if types:
        shown.append(type_table(comparison))
    shown += warning_lines([comparison.dense, *comparison.results])
    shown.append(Text("\n".join(legend(comparison)), style="dim"))
    if comparison.failures:
        shown.append(Text("\n".join(comparison.failures), style="bold red"))
    return shown


def positions_table(comparison: Comparison) -> Table:
    """The same plans with original and with compacted position ids, below each other.

    What position ids change are the answers, of some question types more than of others.
    """
    again = [result for result in comparison.results if result.run.entry.group != MAIN]
    kinds = list(comparison.dense.by_type)
    title = f"{comparison.model['name']}: position ids of the survivors, accuracy in %"
    table = Table("plan", "keep", "positions", title=title, title_justify="left")
    table.title_style = "bold"
    table.min_width = len(title)
    for heading in ("all", "of dense, %", *kinds):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in again:
        beside = (r for r in comparison.results if _same_budget(r, result))
        for row in (*beside, result):
            shares = [row.accuracy.value, *(row.by_type[kind] for kind in kinds)]
            every, *each = (f"{100 * share:.1f}" for share in shares)
            kept = "" if row.retention is None else _percent(row.retention)
            table.add_row(row.name, row.keep, row.positions, every, kept, *each)
        table.add_section()
    return table


def probe_table(comparison: Comparison) -> Table:
    """How much of the encoder's information can still be read, % of dense, by place."""
    title = "readable of the encoder's own features, % of dense (95 % interval)"
    table = Table("plan", "keep", title=title, title_justify="left", title_style="bold")
    for place, ends in comparison.probe.items():
        heading = f"{place}\n{ends['null']:.2f} to {ends['full']:.2f}"
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.results:
        table.add_row(name_of(row), row.keep, *(_percent(row.probe[p]) for p in comparison.probe))
    return table


def _same_budget(row: Result, other: Result) -> bool:
    main = row.run.entry.group == MAIN
    return main and (row.name, row.keep) == (other.name, other.keep)


def type_table(comparison: Comparison) -> Table:
    """Accuracy in % by question type."""
    kinds = list(comparison.dense.by_type)
    title = "accuracy by question type, %"
    table = Table("plan", "keep", title=title, title_justify="left", min_width=len(title))
    for kind in kinds:
        table.add_column(kind, justify="right")
    for row in (comparison.dense, *comparison.results):
        cells = [f"{100 * row.by_type[kind]:.1f}" for kind in kinds]
        table.add_row(name_of(row), row.keep, *cells)
    return table


def legend(comparison: Comparison) -> list[str]:
    """What the columns mean, and what the budgets count."""
    means: dict[str, list[str]] = {}
    for row in comparison.results:
        names = means.setdefault(row.run.entry.meaning or "plan as written", [])
        if row.name not in names:
            names.append(row.name)
    count = comparison.task
    probe = (
        [
            "Readable: a resampler fitted on unpruned tokens predicts the encoder's last block but "
            "one; under a place, its similarity with empty and with unpruned tokens. Readable "
            "doesn't mean that the LLM uses it."
        ]
        if comparison.probe
        else []
    )
    video = ["All plans run with images: frames; token counts are per frame."]
    video = video if comparison.settings.get("task") == "video" else []
    return [
        f"{count['samples']} samples of {count['images']} images; dense accuracy "
        f"{100 * comparison.dense.accuracy.value:.1f} %. [low high]: 95 % paired bootstrap over "
        "images.",
        *(f"keep of {', '.join(names)}: {meaning}." for meaning, names in means.items()),
        *video,
        *probe,
        *comparison.left_out,
        "Vs random: accuracy minus that of random at the same places and budgets, or else at as "
        "many tokens, with the same position ids; empty without such a row.",
        "FLOPs and times are shares of dense, measured in turns with it; select is a share of the "
        "whole dense time.",
    ]


def _percent(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.value:.1f} [{low:.1f} {high:.1f}]"
