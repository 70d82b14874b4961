"""Records of the benchmarks, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from tokenprune.lab.measure.files import write_text


def finish(console: Console, path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write a record that is complete, say so, and give it back."""
    write_record(path, record)
    console.print(f"written to {path}")
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, whole or not at all, into a folder that is made if it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=2) + "\n")
