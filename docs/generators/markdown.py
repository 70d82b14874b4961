"""Small pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MARK = "<!-- written by docs/generate.py from {source}; run it instead of editing this page -->\n"


def row(cells: Iterable[str]) -> str:
    """One line of a table; line breaks and bars inside cells are made harmless."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """A table, its last `numbers` columns aligned to the right."""
    left = len(heading) - numbers
    rule = ["---"] * left + ["---:"] * numbers
    return "\n".join([row(heading), row(rule), *(row(cells) for cells in rows), ""])
