"""A comparison as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tokenprune.lab.compare.record import Comparison
from tokenprune.lab.compare.summary import Result
from tokenprune.lab.measure.entries import MAIN
from tokenprune.lab.measure.statistics import Interval

#: Narrower terminals get the columns in two tables, and still narrower ones in three.
WIDE = 196
MIDDLE = 118
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
    main = [result for result in comparison.results if result.group == MAIN]
    shown = _group(comparison, [comparison.dense, *main], MAIN, width)
    if len(main) < len(comparison.results):
        shown.append(positions_table(comparison))
    if comparison.probe:
        shown.append(probe_table(comparison))
    if types:
        shown.append(type_table(comparison))
    shown.append(Text("\n".join(legend(comparison)), style="dim"))
    if comparison.failures:
        shown.append(Text("\n".join(comparison.failures), style="bold red"))
    return shown


def positions_table(comparison: Comparison) -> Table:
    """The same plans with original and with compacted position ids, below each other.

    What position ids change are the answers, of some question types more than of others.
    """
    again = [result for result in comparison.results if result.group != MAIN]
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
            table.add_row(row.name, row.keep, row.positions, every, _percent(row.retention), *each)
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
        table.add_row(_name(row), row.keep, *(_percent(row.probe[p]) for p in comparison.probe))
    return table


def _same_budget(row: Result, other: Result) -> bool:
    return row.group == MAIN and (row.name, row.keep) == (other.name, other.keep)


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
        "FLOPs and times are shares of dense, measured in turns with it; select is a share of the "
        "whole dense time.",
    ]


def _group(
    comparison: Comparison, rows: Sequence[Result], group: str, width: int
) -> list[RenderableType]:
    columns = _columns(comparison)
    title = f"{comparison.model['name']}: {group}"
    shown: list[RenderableType] = []
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
    if comparison.kind != "mllm":
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
        fixed = column.heading not in ("plan", "keep", "note")
        justify = "left" if column.left else "right"
        table.add_column(column.heading, justify=justify, no_wrap=fixed)  # type: ignore[arg-type]
    before = ""
    for row in rows:
        if row.budget != before and before:
            table.add_section()
        before = row.budget
        table.add_row(*(column.cell(row) for column in columns))
    return table


def _name(row: Result) -> str:
    return row.name if row.positions == "original" else f"{row.name}, {row.positions}"


def _percent(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.value:.1f} [{low:.1f} {high:.1f}]"


def _tokens(key: str) -> Cell:
    # of the model alone, what leaves the encoder is all that the later stages see
    def cell(row: Result) -> str:
        measured = row.tokens.get(key, row.tokens.get("encoder") if row.name == "dense" else None)
        return "-" if measured is None else f"{measured:.4g}"

    return cell


def _time(stage: str) -> Cell:
    def cell(row: Result) -> str:
        share = row.time.get(stage)
        return "-" if share is None else f"{share:.2f}"

    return cell


def _notes(row: Result) -> Text:
    return Text("; ".join([*lengths(row), *row.marks]), style="yellow")


def lengths(row: Result) -> list[str]:
    """How far the token counts of a method that sets them itself lie apart, in words."""
    if row.lengths is None:
        return []
    least, middle, most = (f"{row.lengths[key]:.3g}" for key in ("least", "middle", "most"))
    if least == most:
        return [f"{most} tokens each"]
    return [f"{least} to {most} tokens, median {middle}"]
