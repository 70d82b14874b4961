"""Paired differences of every variant from the base in a record of `benchmarks.defaults`.

python -m benchmarks.read_defaults benchmarks/records/defaults-pictures.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

BASE = "evoprune"
RESAMPLES = 2000


def right(budgets: dict[str, dict[str, str]], members: np.ndarray) -> np.ndarray:
    """Share of a sample's budgets that were answered right, `[n]`."""
    rows = [np.array(list(row["right"]), dtype=float)[members] for row in budgets.values()]
    shares: np.ndarray = np.stack(rows).mean(axis=0)
    return shares


def interval(difference: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval, in points."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(difference), (RESAMPLES, len(difference)))
    low, high = np.quantile(difference[picks].mean(axis=1), (0.025, 0.975))
    return 100 * float(difference.mean()), 100 * float(low), 100 * float(high)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("record", type=Path)
    record = json.loads(parser.parse_args().record.read_text())
    table = Table("variant", "on the half that chooses", "on the half that reports")
    for name, budgets in record["rows"].items():
        if name in (BASE, "dense"):
            continue
        cells = []
        for half in ("choose", "report"):
            members = np.array(record["members"][half])
            base = right(record["rows"][BASE], members)
            mean, low, high = interval(right(budgets, members) - base)
            cells.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        table.add_row(name, *cells)
    Console().print(f"points above '{BASE}', mean of the budgets, 95 % intervals, paired")
    Console().print(table)


if __name__ == "__main__":
    main()
