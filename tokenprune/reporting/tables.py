"""The results as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tokenprune.studies.summary import Group, Row

COLUMNS = (
    "model",
    "task",
    "plan",
    "accuracy",
    "low",
    "high",
    "vs dense",
    "vs random",
    "McNemar p",
    "same answers",
    "tokens",
    "FLOPs / dense",
    "time / dense",
    "beware",
)


def csv_table(groups: Sequence[Group]) -> str:
    """One line a cell, with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group in groups:
        writer.writerows(_cells(group, row) for row in group.rows)
    return buffer.getvalue()


def markdown_table(groups: Sequence[Group]) -> str:
    """The same as a Markdown table; pipes in names are escaped."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for group in groups:
        for row in group.rows:
            cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in _cells(group, row)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(group: Group, row: Row) -> list[str]:
    difference, versus = row.difference, row.versus_random
    return [
        group.model,
        group.task,
        row.name,
        f"{row.accuracy.value:.4f}",
        f"{row.accuracy.low:.4f}",
        f"{row.accuracy.high:.4f}",
        "" if difference is None else f"{difference.value:+.4f}",
        "" if versus is None else f"{versus.value:+.4f}",
        "" if row.mcnemar is None else f"{row.mcnemar:.4f}",
        "" if row.agreement is None else f"{row.agreement:.4f}",
        f"{row.tokens:.1f}",
        f"{row.flops:.3f}",
        f"{row.time.value:.3f}",
        "; ".join(row.warnings),
    ]
