"""A comparison as tables for people."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tokenprune.errors.words import counted
from tokenprune.lab.compare.record import Comparison
from tokenprune.lab.judge.columns import BRIEF, RESULTS, SHARE, Column, Value, brief_stages
from tokenprune.lab.judge.result import Result
from tokenprune.lab.judge.tables import column_table, terminal_tables, warning_lines
from tokenprune.lab.measure.entries import MAIN


def tables(comparison: Comparison, width: int, *, types: bool = False) -> list[RenderableType]:
    """What is printed: one group of rows after the other, then what to know about them.

    Args:
        comparison: the record.
        width: of the terminal.
        types: also a table of accuracies by question type.
    """
    main = _rows(comparison)
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
    rows: list[Result] = []
    for again in _rows(comparison, main=False):
        rows += [r for r in _rows(comparison) if (r.name, r.keep) == (again.name, again.keep)]
        rows.append(again)
    answers = [column for column in RESULTS if column.heading in ("accuracy", "of dense")]
    title = f"{comparison.model['name']}: position ids of the survivors"
    return column_table(title, rows, [*answers, *type_columns(comparison.dense)])


def probe_table(comparison: Comparison) -> Table:
    """How much of the encoder's information can still be read, % of dense, by place."""
    title = "readable of the encoder's own features, % of dense (95 % interval)"
    columns = [
        Column(f"{place} {ends['null']:.2f}-{ends['full']:.2f}", _read(place), SHARE)
        for place, ends in comparison.probe.items()
    ]
    return column_table(title, comparison.results, columns)


def type_table(comparison: Comparison) -> Table:
    """Accuracy by question type."""
    rows = [comparison.dense, *comparison.results]
    return column_table("accuracy by question type", rows, type_columns(comparison.dense))


def type_columns(dense: Result) -> list[Column]:
    """Accuracy in %, by the types of questions that the dense model answered."""
    return [Column(kind, _right(kind), SHARE) for kind in dense.by_type]


def _right(kind: str) -> Callable[[Result], Value]:
    return lambda row: row.by_type[kind]


def _read(place: str) -> Callable[[Result], Value]:
    return lambda row: row.probe[place]


def _rows(comparison: Comparison, *, main: bool = True) -> list[Result]:
    return [row for row in comparison.results if (row.run.entry.group == MAIN) is main]


def _resumed(comparison: Comparison) -> list[str]:
    """That a record is of more than one run, which its times should be read with."""
    if not comparison.resumed:
        return []
    batches, of = comparison.resumed["batches"], comparison.resumed["of"]
    return [
        f"Resumed: {batches} of {counted(of, 'batch', 'batches')} were measured by earlier runs, "
        "on a machine of the same kind; times are sums over all runs."
    ]


def _unshown(comparison: Comparison) -> list[str]:
    brief = brief_stages([comparison.dense, *comparison.results])
    if not brief:
        return []
    return [f"Without times of {', '.join(brief)}: dense spends less than {BRIEF:.0%} there."]


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
    video = ["Questions are about clips; token counts are per frame."]
    about_clips = comparison.settings.get("task") == "video" or "frames" in comparison.settings
    video = video if about_clips else []
    others = comparison.settings.get("others", 0)
    more = [f"{others} other strategies: --all, or --family for one place."] if others else []
    return [
        f"{counted(count['samples'], 'sample')} of {counted(count['images'], 'image')}; dense "
        f"accuracy {100 * comparison.dense.accuracy.value:.1f} %. [low high]: 95 % paired "
        "bootstrap over images.",
        *(f"keep of {', '.join(names)}: {meaning}." for meaning, names in means.items()),
        *video,
        *probe,
        *_resumed(comparison),
        *_unshown(comparison),
        *comparison.left_out,
        *more,
        "Vs random: accuracy minus that of random at the same places and budgets, or else at as "
        "many tokens, with the same position ids; empty without such a row.",
        "FLOPs and times are shares of dense, measured in turns with it; select is a share of the "
        f"whole dense time. FLOPs are counted on {comparison.dense.counted_on}.",
    ]
