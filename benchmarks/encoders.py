"""Encoder time, dense against pruned at equal kept counts, beside the FLOPs ratio.

    python -m benchmarks.encoders --out benchmarks/records/encoders.json
    python -m benchmarks.encoders --compile --tower vit-b16-224 --batch 1 --append

With `--append` a record grows part by part, measured in one environment; what is measured again
replaces what stood there. It is written after every row.

Random weights are fine: time doesn't depend on them. Dense and pruned runs alternate in one
process and every figure is a ratio within that run, because machines are noisy. `achieved` is
the measured speed-up over the one that the FLOPs ratio promises. Of a compiled row `graphs` are
those of the dense and of the pruned tower; `failed` is what a compiler said that gave up.
`--strategy uniform` keeps evenly spaced tokens without looking at them, so it achieves what the
machine makes of fewer tokens; methods that choose have the choice on top.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import tokenprune
from benchmarks.parts import Parts
from benchmarks.timing import seconds
from benchmarks.towers import Inputs, Tower, towers
from tokenprune.lab.bench.compiling import compilations, room, shared_copy
from tokenprune.ops.flops import count_flops

console = Console()
STRATEGIES = ("evoprune", "tome")
BACKEND = "inductor"
KEY = ("encoder", "batch", "strategy", "compiled")
"""What tells a row from all others."""


def flops_of(model: nn.Module, inputs: Inputs) -> int:
    """FLOPs of one forward pass, selection included."""
    with count_flops() as counter:
        model(**inputs)
    return int(counter.total)


def compare(
    model: nn.Module,
    tower: Tower,
    inputs: Inputs,
    one: Inputs,
    strategy: str,
    rounds: int,
    compiled: bool,
) -> dict[str, Any]:
    """Dense and pruned in turn.

    Args:
        model: the dense tower; the pruned one is a copy that shares its weights.
        tower: what it is.
        inputs: of the timed calls.
        one: a call with one picture, for the FLOPs.
        strategy: whose plan is measured.
        rounds: timed calls of each.
        compiled: whether both run through `torch.compile`.

    Returns:
        Medians, the ratio pair by pair, the ratio of FLOPs; None for what no compiled call tells.
        Where the compiler fails, what it says under `failed`, and no times.
    """
    device = next(model.parameters()).device
    pruned = shared_copy(model)
    with tokenprune.attach(pruned, tower.plan(strategy)) as handle:
        promised = flops_of(model, one) / flops_of(pruned, one)
        handle.meter.reset()
        pruned(**inputs)
        head: dict[str, Any] = {
            "kept": handle.meter.tokens["encoder"],
            "compiled": compiled,
            "flops_ratio": promised,
            "rounds": rounds,
        }
        calls: list[Callable[..., Any]] = [model, pruned]
        if compiled:
            made = compiled_calls(calls, inputs)
            if isinstance(made, str):
                return head | {"failed": made}
            calls, graphs = made
            head["graphs"] = graphs
        turns, shares = [], []
        for call in calls:
            call(**inputs)
        for _ in range(rounds):
            handle.meter.reset()
            turns.append([seconds(partial(call, **inputs), device) for call in calls])
            shares.append(handle.meter.seconds["select"] / turns[-1][1])
    ratios = [dense / short for dense, short in turns]
    speedup = statistics.median(ratios)
    return head | {
        "dense_seconds": statistics.median(turn[0] for turn in turns),
        "pruned_seconds": statistics.median(turn[1] for turn in turns),
        "select_share": None if compiled else statistics.median(shares),
        "speedup": speedup,
        "speedup_range": [min(ratios), max(ratios)],
        "achieved": speedup / promised,
    }


def compiled_calls(
    calls: Sequence[Callable[..., Any]], inputs: Inputs
) -> tuple[list[Callable[..., Any]], list[int]] | str:
    """The calls through `torch.compile`, made once, and of how many graphs each is.

    Towers that are no single graph break into several. A compiler that gives up raises errors of
    many kinds: then this is how what the error says begins.
    """
    torch.compiler.reset()
    made, graphs = [], []
    for call in calls:
        before, fast = compilations(), torch.compile(call, backend=BACKEND)
        try:
            with room():
                fast(**inputs)
        except Exception as error:
            said = str(error).strip().splitlines()  # who failed, then why
            return f"{type(error).__name__}: {' '.join(said[:2])}"
        made.append(fast)
        graphs.append(compilations() - before)
    return made, graphs


def measure(
    chosen: Sequence[Tower],
    batches: Sequence[int],
    strategies: Sequence[str],
    rounds: int,
    compiled: bool,
) -> Iterator[dict[str, Any]]:
    """All rows, one by one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for tower in chosen:
        model = tower.build().to(device=device, dtype=dtype)
        one = placed(tower.inputs(1), device, dtype)
        for batch in batches:
            inputs = placed(tower.inputs(batch), device, dtype)
            for strategy in strategies:
                head = {"encoder": tower.name, "patches": tower.patches, "batch": batch}
                found = compare(model, tower, inputs, one, strategy, rounds, compiled)
                yield {**head, "strategy": strategy, **found}
        torch.compiler.reset()
        del model


def placed(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Inputs on the device, pictures in the model's dtype."""
    return {
        name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _line(row: dict[str, Any]) -> str:
    head = f"{row['encoder']} batch {row['batch']} {row['strategy']}"
    if "failed" in row:
        return f"{head} can't be compiled: {row['failed']}"
    return (
        f"{head}{' compiled' if row['compiled'] else ''} {row['patches']} -> "
        f"{row['kept']:.0f}: {row['speedup']:.2f}x faster, FLOPs promise "
        f"{row['flops_ratio']:.2f}x, achieved {row['achieved']:.2f}"
    )


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    shown = Table(
        "encoder",
        "batch",
        "strategy",
        "kept",
        "speed-up",
        "FLOPs ratio",
        "achieved",
        "selection share",
    )
    for row in rows:
        head = (
            row["encoder"],
            str(row["batch"]),
            row["strategy"] + (", compiled" if row["compiled"] else ""),
            f"{row['kept']:.0f} of {row['patches']}",
        )
        if "failed" in row:
            shown.add_row(*head, "failed", f"{row['flops_ratio']:.2f}")
            continue
        share = row["select_share"]
        shown.add_row(
            *head,
            f"{row['speedup']:.2f}",
            f"{row['flops_ratio']:.2f}",
            f"{row['achieved']:.2f}",
            "not measured" if share is None else f"{share:.1%}",
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/encoders.json"))
    parser.add_argument("--batch", type=int, action="append", help="repeatable; default 1, 8, 32")
    parser.add_argument("--tower", action="append", help="by name, repeatable; default all")
    parser.add_argument("--strategy", action="append", help="repeatable; default evoprune, tome")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="further rows by torch.compile")
    parser.add_argument("--append", action="store_true", help="add to the record that is there")
    parser.add_argument("--tiny", action="store_true", help="tiny towers, to try this out")
    args = parser.parse_args(arguments)
    known = towers(tiny=args.tiny)
    names = [tower.name for tower in known]
    if unknown := set(args.tower or ()) - set(names):
        parser.error(f"no tower {unknown}; there are {', '.join(names)}")
    chosen = [tower for tower in known if args.tower is None or tower.name in args.tower]
    try:
        record = Parts.begin(args.out, KEY, {"encoder": names}, append=args.append)
    except ValueError as reason:
        parser.error(str(reason))
    with torch.inference_mode():
        for compiled in (False, True) if args.compile else (False,):
            batches, strategies = args.batch or [1, 8, 32], args.strategy or STRATEGIES
            for row in measure(chosen, batches, strategies, args.rounds, compiled):
                record.put(row)
                console.print(_line(row))
    console.print(table(record.rows))
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main()
