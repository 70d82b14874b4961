"""Examples at the end of every `--help`."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """An epilog with one command a line; typer keeps line breaks only between paragraphs."""
    return "\n\n".join(("Examples:", *(f"  [bold]{line}[/]" for line in lines)))
