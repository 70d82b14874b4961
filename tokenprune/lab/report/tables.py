"""The results as Markdown and CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence

from tokenprune.lab.measure.statistics import Interval
from tokenprune.lab.studies.summary import Group, Row

Cell = Callable[[Row], str]

#: Columns of both tables, in order.
SHORT: dict[str, Cell] = {
    "accuracy": lambda row: f"{row.accuracy.value:.4f}",
    "low": lambda row: f"{row.accuracy.low:.4f}",
    "high": lambda row: f"{row.accuracy.high:.4f}",
    "vs dense": lambda row: _value(row.difference),
    "vs dense low": lambda row: _ends(row.difference)[0],
    "vs dense high": lambda row: _ends(row.difference)[1],
    "vs random": lambda row: _value(row.versus_random),
    "vs random low": lambda row: _ends(row.versus_random)[0],
    "vs random high": lambda row: _ends(row.versus_random)[1],
    "McNemar p": lambda row: _share(row.mcnemar),
    "same answers": lambda row: _share(row.agreement),
    "tokens": lambda row: f"{row.tokens:.1f}",
    "FLOPs / dense": lambda row: f"{row.flops:.3f}",
    "time / dense": lambda row: f"{row.time.value:.3f}",
}

#: Further columns of the CSV, whose readers are programs.
MORE: dict[str, Cell] = {
    "time low": lambda row: f"{row.time.low:.3f}",
    "time high": lambda row: f"{row.time.high:.3f}",
    "random seeds": lambda row: str(row.seeds),
    "samples": lambda row: str(len(row.record.result["samples"])),
    "peak bytes": lambda row: str(row.record.result["peak_bytes"]),
    "GFLOPs": lambda row: f"{row.record.result['flops'] / 1e9:.4f}",
}

#: Spreadsheets take cells that begin so as formulas.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_table(groups: Sequence[Group]) -> str:
    """One line a cell, failed ones included, with a header; all that the records state."""
    columns = {**SHORT, **MORE, **_found(groups)}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "task", "plan", "status", *map(_harmless, columns), "beware"])
    for group in groups:
        about = [_harmless(group.model), _harmless(group.task)]
        for row in group.rows:
            cells = [cell(row) for cell in columns.values()]
            beware = _harmless("; ".join(row.warnings))
            writer.writerow([*about, _harmless(row.name), "done", *cells, beware])
        for name, reason in group.failed.items():
            nothing = [""] * len(columns)
            writer.writerow([*about, _harmless(name), "failed", *nothing, _harmless(reason)])
    return buffer.getvalue()


def markdown_table(groups: Sequence[Group]) -> str:
    """The same in short as a Markdown table; what came from data stays text."""
    headings = ["model", "task", "plan", *SHORT, "beware"]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for group in groups:
        for row in group.rows:
            cells = [cell(row) for cell in SHORT.values()]
            lines.append(_line(group, row.name, [*cells, "; ".join(row.warnings)]))
        for name, reason in group.failed.items():
            lines.append(_line(group, name, [*([""] * len(SHORT)), f"failed: {reason}"]))
    return "\n".join(lines) + "\n"


def token_places(group: Group) -> list[str]:
    """Where the records of a group counted tokens, in their order."""
    return list(dict.fromkeys(place for row in group.rows for place in row.record.result["tokens"]))


def _found(groups: Sequence[Group]) -> dict[str, Cell]:
    """Columns that depend on the records: stages, types of questions, metrics."""
    rows = [row for group in groups for row in group.rows]
    stages = dict.fromkeys(stage for row in rows for stage in row.record.result["seconds"])
    places = dict.fromkeys(place for group in groups for place in token_places(group))
    kinds = sorted({kind for row in rows for kind in row.by_type})
    metrics = dict.fromkeys(name for row in rows for name in row.metrics)
    return {
        **{f"tokens: {place}": _at(_tokens, place) for place in places},
        **{f"seconds: {stage}": _at(_seconds, stage) for stage in stages},
        **{f"accuracy: {kind}": _at(_kinds, kind) for kind in kinds},
        **{f"metric: {name}": _at(_metrics, name) for name in metrics},
    }


def _at(read: Callable[[Row], Mapping[str, float]], key: str) -> Cell:
    def cell(row: Row) -> str:
        value = read(row).get(key)
        return "" if value is None else f"{value:.6g}"

    return cell


def _tokens(row: Row) -> Mapping[str, float]:
    return dict(row.record.result["tokens"])


def _seconds(row: Row) -> Mapping[str, float]:
    return dict(row.record.result["seconds"])


def _kinds(row: Row) -> Mapping[str, float]:
    return row.by_type


def _metrics(row: Row) -> Mapping[str, float]:
    return {name: interval.value for name, interval in row.metrics.items()}


def _line(group: Group, name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_text, (group.model, group.task, name, *cells))) + " |"


def _text(cell: str) -> str:
    """No tag, link, image or new cell comes out of data."""
    plain = html.escape(" ".join(cell.split()), quote=False)
    for mark in "\\|[]`":
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _value(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.value:+.4f}"


def _ends(interval: Interval | None) -> tuple[str, str]:
    return ("", "") if interval is None else (f"{interval.low:+.4f}", f"{interval.high:+.4f}")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
