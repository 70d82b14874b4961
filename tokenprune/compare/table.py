"""A comparison as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tokenprune.compare.record import Comparison
from tokenprune.compare.statistics import Interval
from tokenprune.compare.summary import Result

#: Narrower terminals get the columns in two tables, and still narrower ones in three.
WIDE = 158
MIDDLE = 110
PARTS = {"answers": "answers", "size": "tokens and FLOPs", "time": "time"}
TIMES = ("encode", "select", "project", "prefill", "decode")

Cell = Callable[[Result], str | Text]


@dataclass(frozen=True)
class Column:
    """A heading, how a row fills it, and which part of a split table it goes to."""

    heading: str
    cell: Cell
    part: str = ""
    left: bool = False


def tables(comparison: Comparison, width: int, *, types: bool = False) -> list[RenderableType]:
    """What is printed: one group of rows after the other, then what the columns mean.

    Args:
        comparison: the record.
        width: of the terminal.
        types: also a table of accuracies by question type.
    """
    groups = dict.fromkeys(result.group for result in comparison.results)
    shown: list[RenderableType] = []
    for group in groups:
        rows = [comparison.dense, *(r for r in comparison.results if r.group == group)]
        shown += _group(comparison, rows, group, width)
    if types:
        shown.append(type_table(comparison))
    shown.append(Text("\n".join(legend(comparison)), style="dim"))
    if comparison.failures:
        shown.append(Text("\n".join(comparison.failures), style="bold red"))
    return shown


def type_table(comparison: Comparison) -> Table:
    """Accuracy in % by question type."""
    kinds = list(comparison.dense.by_type)
    title = "accuracy by question type, %"
    table = Table("plan", "keep", title=title, title_justify="left", min_width=len(title))
    for kind in kinds:
        table.add_column(kind, justify="right")
    for row in (comparison.dense, *comparison.results):
        cells = [f"{100 * row.by_type[kind]:.1f}" for kind in kinds]
        table.add_row(_name(row), row.keep, *cells)
    return table


def legend(comparison: Comparison) -> list[str]:
    """What the columns mean, and what the budgets count."""
    means: dict[str, list[str]] = {}
    for row in comparison.results:
        names = means.setdefault(row.meaning or "plan as written", [])
        if row.name not in names:
            names.append(row.name)
    count = comparison.task
    return [
        f"{count['samples']} samples of {count['images']} images; dense accuracy "
        f"{100 * comparison.dense.accuracy.value:.1f} %. [low high]: 95 % paired bootstrap over "
        "images.",
        *(f"keep of {', '.join(names)}: {meaning}." for meaning, names in means.items()),
        "FLOPs and times are shares of dense, measured in turns with it; select is a share of the "
        "whole dense time.",
    ]


def _group(
    comparison: Comparison, rows: Sequence[Result], group: str, width: int
) -> list[RenderableType]:
    columns = _columns(comparison)
    title = f"{comparison.model['name']}: {group}"
    shown = []
    for parts in _split(width):
        words = ", ".join(PARTS[part] for part in parts)
        part_title = title if len(parts) == len(PARTS) else f"{title}: {words}"
        shown.append(_table(part_title, rows, [c for c in columns if c.part in ("", *parts)]))
    return shown


def _split(width: int) -> list[tuple[str, ...]]:
    if width >= WIDE:
        return [tuple(PARTS)]
    if width >= MIDDLE:
        return [("answers",), ("size", "time")]
    return [(part,) for part in PARTS]


def _columns(comparison: Comparison) -> list[Column]:
    stages = [stage for stage in TIMES if any(stage in r.time for r in comparison.results)]
    if comparison.kind == "classifier":
        stages = [stage for stage in stages if stage in ("encode", "select")]
        counts = [("patches left", "encoder")]
    else:
        counts = [("encoder out", "encoder"), ("LLM in", "llm"), ("LLM mean", "llm_average")]
    return [
        Column("plan", _name, left=True),
        Column("keep", lambda r: r.keep),
        Column("accuracy", lambda r: f"{100 * r.accuracy.value:.1f}", "answers"),
        Column("of dense, %", lambda r: _percent(r.retention), "answers"),
        Column("agree", lambda r: f"{100 * r.agreement:.1f}", "answers"),
        *(Column(name, _tokens(key), "size") for name, key in counts),
        Column("FLOPs", lambda r: f"{r.flops_ratio:.2f}", "size"),
        *(Column(stage, _time(stage), "time") for stage in stages),
        Column("total", lambda r: f"{r.total.value:.2f}", "time"),
        Column("note", _notes, "answers", left=True),
    ]


def _table(title: str, rows: Sequence[Result], columns: Sequence[Column]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        fixed = column.heading != "note"
        justify = "left" if column.left else "right"
        table.add_column(column.heading, justify=justify, no_wrap=fixed)  # type: ignore[arg-type]
    before = ""
    for row in rows:
        if row.keep != before and before:
            table.add_section()
        before = row.keep
        table.add_row(*(column.cell(row) for column in columns))
    return table


def _name(row: Result) -> str:
    return row.name if row.positions == "original" else f"{row.name}, {row.positions}"


def _percent(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.value:.1f} [{low:.1f} {high:.1f}]"


def _tokens(key: str) -> Cell:
    return lambda row: f"{row.tokens[key]:.4g}" if key in row.tokens else "-"


def _time(stage: str) -> Cell:
    def cell(row: Result) -> str:
        share = row.time.get(stage)
        return "-" if share is None else f"{share:.2f}"

    return cell


def _notes(row: Result) -> Text:
    return Text("; ".join(row.marks), style="yellow")
