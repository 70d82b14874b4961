"""Everything that only a GPU can tell, within a time limit: kernels, towers, time to first token.

    benchmarks/gpu.sh
    benchmarks/gpu.sh --fill        and fill the table of the kernels' sizes, ahead of the towers

Parts run in the order of their worth, and the record is written as it grows. What fails is named in
it, as is what the time didn't suffice for. With `--dry` all models are tiny and any device will do:
it shows that the script runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import tokenprune
from benchmarks import first_token, kernels, launches
from benchmarks import ops as operations
from benchmarks.encoders import placed
from benchmarks.recording import write_record
from benchmarks.timing import Call, alternating, launched, replayed
from benchmarks.towers import Tower, towers
from tokenprune.lab.bench.compiling import shared_copy
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.ops.launching import fill

console = Console()
EARLY = "evoprune, early"
EAGER = ("dense", "uniform", "tome", "evoprune", EARLY, "fopru")
COMPILED = ("dense", "evoprune", EARLY, "tome")
MODES: dict[str, str] = {"compiled": "default", "graphs": "reduce-overhead"}
#: Least seconds that an operation is timed for.
LEAST = 0.02


@dataclass
class Run:
    """One run of the script.

    Attributes:
        device: where it runs.
        dry: whether models are tiny.
        until: `time.monotonic()` at which nothing new is begun.
        rounds: timed calls.
        path: file of the record.
        fills: whether the fastest sizes of kernels are written into their table.
        record: what was found so far.
    """

    device: torch.device
    dry: bool
    until: float
    rounds: int
    path: Path
    fills: bool = False
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        empty: dict[str, list[Any]] = {
            name: []
            for name in (
                "left_out",
                "failed",
                "kernels",
                "launches",
                "towers",
                "first_token",
                "operations",
            )
        }
        environment = describe_environment()
        self.record = {"schema_version": 1, "dry": self.dry, "environment": environment, **empty}

    @property
    def dtype(self) -> torch.dtype:
        """Of models and inputs."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of towers."""
        return (1, 2) if self.dry else (1, 8, 32)

    def put(self, section: str, row: Any) -> None:
        """Add a row to the record, and write it."""
        self.record[section].append(row)
        write_record(self.path, self.record)

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Note that this failed, if it does, and go on."""
        try:
            yield
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            self.put("failed", {"what": what, "error": f"{type(error).__name__}: {first}"})
            console.print(f"{what}: {type(error).__name__}: {error}", markup=False)

    def begins(self, what: str) -> bool:
        """Whether there is time for something; notes it if there isn't."""
        left = self.until - time.monotonic()
        if left > 0:
            console.print(f"{what} ({left:.0f} s left)", highlight=False)
            return True
        self.put("left_out", what)
        return False


def eager(run: Run, tower: Tower) -> None:
    """Dense and every strategy, in turn, with the kernels that they launch; then as CUDA graphs."""
    models = attached(run, tower, EAGER)
    for batch in run.batches:
        what = f"{tower.name}, batch {batch}, eager"
        if not run.begins(what):
            continue
        with run.trying(what):
            given = placed(tower.inputs(batch), run.device, run.dtype)
            calls: dict[str, Call] = {
                name: partial(model, **given) for name, model in models.items()
            }
            row = {"tower": tower.name, "batch": batch, "mode": "eager"}
            times = alternating(calls, run.device, run.rounds)
            for name, call in calls.items():
                count = launched(call, run.device)
                run.put("towers", {**row, "strategy": name, "seconds": times[name]} | count)
            if run.device.type == "cuda" and not tower.packed:  # packed ones read their grids
                recorded = {name: replayed(call) for name, call in calls.items()}
                row["mode"] = "recorded"
                for name, seconds in alternating(recorded, run.device, run.rounds).items():
                    run.put("towers", {**row, "strategy": name, "seconds": seconds})


def attached(run: Run, tower: Tower, names: Sequence[str]) -> dict[str, nn.Module]:
    """Copies of a tower that share their weights, each with a strategy; the first is dense."""
    with run.device:
        dense = tower.build().to(device=run.device, dtype=run.dtype)
    models = {name: dense if name == "dense" else shared_copy(dense) for name in names}
    for name, model in models.items():
        if name != "dense":
            strategy, early, _ = name.partition(", ")
            tokenprune.attach(model, tower.plan(strategy, early=bool(early)))
    return models


def compiled(run: Run, tower: Tower, mode: str, batch: int) -> None:
    """The same through `torch.compile`, in turn."""
    what = f"{tower.name}, batch {batch}, {mode}"
    if not run.begins(what):
        return
    torch.compiler.reset()
    given = placed(tower.inputs(batch), run.device, run.dtype)
    # on a CPU without the time to generate code, tracing alone shows that it works
    options: dict[str, Any] = {"backend": "eager"} if run.dry else {"mode": MODES[mode]}
    calls: dict[str, Call] = {}
    first: dict[str, float] = {}
    for name, model in attached(run, tower, COMPILED).items():
        if not run.begins(f"{what}, {name}"):
            continue
        with run.trying(f"{what}, {name}"):
            call = partial(torch.compile(model, dynamic=False, **options), **given)
            start = time.perf_counter()
            call()
            first[name] = time.perf_counter() - start
            call()  # records the graph
            calls[name] = call
    with run.trying(what):
        for name, seconds in alternating(calls, run.device, run.rounds).items():
            row = {"tower": tower.name, "batch": batch, "mode": mode, "strategy": name}
            run.put("towers", row | {"seconds": seconds, "compiling": first[name]})


def measure(run: Run) -> None:
    """All parts."""
    known = towers(tiny=run.dry)
    with run.trying("kernels"):
        for row in kernels.compare(run.device, run.dtype, short=run.dry):
            run.put("kernels", row)
    sizes(run)
    for tower in known:
        with run.trying(tower.name):
            eager(run, tower)
    compiled(run, known[0], "graphs", 1)
    tokens_and_operations(run)
    most = run.batches[1]
    cases = [(1, "graphs"), (most, "compiled"), (1, "compiled"), (most, "graphs")]
    for batch, mode in cases:
        for tower in known[: 1 if run.dry else None]:
            if (tower, batch, mode) != (known[0], 1, "graphs"):
                compiled(run, tower, mode, batch)


def sizes(run: Run) -> None:
    """Sizes of the kernels' programs, tried out where there are kernels."""
    if run.device.type != "cuda":
        return
    for trial in launches.trials(run.dtype):
        if run.begins(f"sizes of {trial.kernel}"):
            with run.trying(f"sizes of {trial.kernel}"):
                clock = launches.clock_of(run.device)
                for row in launches.measure(trial, run.device, run.dtype, clock):
                    run.put("launches", row)
    if run.fills:
        fill(launches.best(run.record["launches"]))


def tokens_and_operations(run: Run) -> None:
    """Time to first token, and of each operation."""
    for family in first_token.FAMILIES:
        what = f"{family}, time to first token"
        if run.begins(what):
            with run.trying(what):
                for row in first_token.measure(family, run.device, run.dry, run.rounds):
                    run.put("first_token", row)
    for site in operations.SITES[:1]:
        if run.begins(f"operations, {site.name}"):
            with run.trying(f"operations, {site.name}"):
                least = 0.0 if run.dry else LEAST
                batches = (1,) if run.dry else (1, 8)
                for row in operations.measure([site], batches, run.device, run.dtype, least):
                    run.put("operations", row)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run everything, write the record and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/gpu.json"))
    parser.add_argument("--dry", action="store_true", help="tiny models, on any device")
    parser.add_argument("--seconds", type=float, default=420, help="when nothing new is begun")
    parser.add_argument("--rounds", type=int, default=0, help="timed calls; default 10, dry 1")
    parser.add_argument("--fill", action="store_true", help="fill the table of kernels' sizes")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not args.dry:
        parser.error("there is no CUDA device; --dry shows that the script runs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = args.rounds or (1 if args.dry else 10)
    run = Run(device, args.dry, time.monotonic() + args.seconds, rounds, args.out, args.fill)
    torch.manual_seed(0)
    with torch.inference_mode():
        measure(run)
    write_record(args.out, run.record)
    console.print(f"written to {args.out}")
    return run.record


if __name__ == "__main__":
    main()
