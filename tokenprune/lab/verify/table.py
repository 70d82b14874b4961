"""The table of a verification."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from tokenprune.errors import words
from tokenprune.lab.verify.record import InvariantRow, Verification

STYLES = {"pass": "green", "fail": "bold red", "does not apply": "dim"}


def verification_table(found: Verification) -> Table:
    """One row an invariant: status, measured difference, tolerance, and what was compared."""
    title = f"{found.plan['name'] or 'plan'} on {found.model['name']}"
    table = Table(title=title, title_justify="left")
    for name, options in (
        ("row", {}),
        ("what must hold", {"ratio": 3}),
        ("result", {}),
        ("difference", {"justify": "right"}),
        ("tolerance", {"justify": "right"}),
        ("compared", {"ratio": 4}),
    ):
        table.add_column(name, **options)
    for row in found.rows:
        style = STYLES[row.status]
        table.add_row(
            row.key,
            row.invariant,
            f"[{style}]{row.status}[/]",
            _number(row.difference),
            _number(row.tolerance),
            "\n".join(_compared(row)),
        )
    return table


def verdict(found: Verification) -> str:
    """One sentence: how many rows hold, fail and don't apply."""
    counts = dict.fromkeys(STYLES, 0)
    for row in found.rows:
        counts[row.status] += 1
    return words.verdict(counts["pass"], counts["fail"], counts["does not apply"])


def _compared(row: InvariantRow) -> Iterator[str]:
    if row.compared:
        yield f"{row.compared}, {row.dtype}"
    if row.note:
        yield row.note


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.1e}"
