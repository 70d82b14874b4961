"""How the cost of selections grows: with the pictures of a call, and with the tokens of one.

    python -m benchmarks.growth --out benchmarks/records/growth.json

Timed of a call is what the plan adds: selection and reduction, as the meter tells (`select`).
Beside it stands how many more operations the pruned call dispatches than the dense one, which no
load of the machine changes. Operations are timed by themselves on one picture of `[1, N, D]`, at a
fixed number of picks and at a fixed ratio. Exponents are slopes in doubly logarithmic scale:
`exponent` over all sizes, `tail` over the last three, where what a call costs at least no longer
matters. With `OMP_NUM_THREADS=1` in the environment, they are those of one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import tokenprune
from benchmarks.counting import dispatched
from benchmarks.growing import Family, families
from benchmarks.growth_ops import ATTENTION, HEADS, NATURES, RATIO, rows_of
from benchmarks.recording import finish
from benchmarks.timing import seconds
from tokenprune.lab.bench.compiling import shared_copy
from tokenprune.lab.measure.environment import describe_environment

console = Console()
Row = dict[str, Any]
IMAGES = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (196, 400, 900, 2000, 4000, 8000)
PICKS = 64
TAIL = 3
"""Sizes, the largest ones, of which the tail's exponent is taken."""


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent e of `value ~ size ** e`: the least squares line through the logarithms."""
    x = torch.tensor(sizes, dtype=torch.float64).log()
    y = torch.tensor(values, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())


def wanted(family: Family, only: Sequence[str] | None) -> list[str]:
    """The strategies of a family that are to be measured; None for all."""
    return [name for name in family.strategies if only is None or name in only]


def images_rows(
    family: Family, counts: Sequence[int], rounds: int, only: Sequence[str] | None = None
) -> list[Row]:
    """What strategies add to calls of one prompt, by its number of pictures.

    Args:
        family: the model.
        counts: numbers of pictures.
        rounds: timed calls.
        only: names of strategies; None for all.
    """
    torch.manual_seed(0)
    dense = family.build()
    calls = {count: family.call(count) for count in counts}
    before = {count: len(dispatched(partial(dense, **given))) for count, given in calls.items()}
    rows = []
    for strategy in wanted(family, only):
        model = shared_copy(dense)
        for count, given in calls.items():
            # attached anew: the first call of a shape checks answers, the second is as all later
            with tokenprune.attach(model, family.plan(strategy)) as handle:
                found = _added(model, given, handle, rounds)
                more = len(dispatched(partial(model, **given))) - before[count]
            head = {"model": family.name, "strategy": strategy, "at": family.strategies[strategy]}
            rows.append({**head, "images": count, **found, "operations": more})
            console.print(_line(rows[-1]), highlight=False)
    return rows


def _added(model: nn.Module, given: Row, handle: Any, rounds: int) -> Row:
    device = given["input_ids"].device
    model(**given)
    whole, select = [], []
    for _ in range(rounds):
        handle.meter.reset()
        whole.append(seconds(partial(model, **given), device))
        select.append(handle.meter.seconds["select"])
    return {"seconds": statistics.median(select), "call_seconds": statistics.median(whole)}


def _line(row: Row) -> str:
    return (
        f"{row['model']}, {row['strategy']}, {row['images']} images: {row['seconds'] * 1e3:.2f} ms "
        f"of {row['call_seconds'] * 1e3:.1f}, {row['operations']} operations"
    )


def exponents(rows: Sequence[Row], names: Sequence[str], size: str, value: str) -> list[Row]:
    """A row for every group of rows: its exponent over all sizes and over the largest ones.

    Args:
        rows: those of a group one behind the other, by size.
        names: keys that make a group.
        size: key of the size.
        value: key of what grows.
    """
    found = []
    for group, members in groupby(rows, key=lambda row: tuple(row[name] for name in names)):
        points = [(row[size], row[value]) for row in members if row[value] > 0]
        if len(points) < 2:
            continue
        sizes, values = zip(*points, strict=True)
        row: Row = dict(zip(names, group, strict=True)) | {"of": value}
        row["exponent"] = slope(sizes, values)
        row["tail"] = slope(sizes[-TAIL:], values[-TAIL:])
        found.append(row)
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rows, and the exponents of each group."""
    images: list[Row] = []
    counts, tokens = (IMAGES[:2], (64, 128)) if args.tiny else (IMAGES, TOKENS)
    picks = 8 if args.tiny else PICKS
    for family in families(tiny=args.tiny):
        images += images_rows(family, counts, args.rounds, args.strategy)
    found = rows_of(tokens, picks, args.rounds, args.seconds)
    named = ("model", "strategy", "at")
    own = {row["tokens"]: row["flops"] for row in found if row["op"] == ATTENTION}
    return {
        "picks": picks,
        "ratio": RATIO,
        "heads": HEADS,
        "attention_flops": {str(size): flops for size, flops in own.items()},
        "images": images,
        "images_exponents": [
            *exponents(images, named, "images", "seconds"),
            *exponents(images, named, "images", "operations"),
        ],
        "tokens": found,
        "tokens_exponents": [
            {**row, **_nature(row)}
            for row in exponents(found, ("op", "picks_by"), "tokens", "seconds")
        ],
    }


def _nature(row: Row) -> Row:
    nature = NATURES[row["op"], row["picks_by"]]
    return {"nature": nature.power, "why": nature.why}


def table(record: dict[str, Any]) -> Table:
    """The exponents for people."""
    shown = Table("what", "of", "exponent", "tail", "by nature")
    for row in record["images_exponents"]:
        name = f"{row['model']}, {row['strategy']}: images"
        shown.add_row(name, row["of"], f"{row['exponent']:z.2f}", f"{row['tail']:z.2f}", "1")
    for row in record["tokens_exponents"]:
        name = f"{row['op']}, {row['picks_by']}: tokens"
        cells = (f"{row['exponent']:z.2f}", f"{row['tail']:z.2f}", str(row["nature"]))
        shown.add_row(name, row["of"], *cells)
    return shown


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the exponents, write the record and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/growth.json"))
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    parser.add_argument("--seconds", type=float, default=0.3, help="least time of an operation")
    parser.add_argument("--strategy", action="append", help="by name, repeatable; default all")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try this out")
    args = parser.parse_args(arguments)
    known = {name for family in families() for name in family.strategies}
    if unknown := set(args.strategy or ()) - known:
        parser.error(f"no strategy {sorted(unknown)} here; there are {', '.join(sorted(known))}")
    torch.manual_seed(0)
    with torch.inference_mode():
        found = measure(args)
    record = {
        "schema_version": 1,
        "environment": describe_environment(),
        "load": os.getloadavg()[2],
        "rounds": args.rounds,
        **found,
    }
    console.print(table(record))
    return finish(console, args.out, record)


if __name__ == "__main__":
    main()
