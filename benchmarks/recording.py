"""Records of the benchmarks, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenprune.lab.measure.files import write_text


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, whole or not at all, into a folder that is made if it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=2) + "\n")
