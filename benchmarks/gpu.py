"""Everything that only a GPU can tell, within a time limit: kernels, towers, time to first token.

    benchmarks/gpu.sh
    benchmarks/gpu.sh --fill        and fill the table of the kernels' sizes, ahead of the towers

1. Workers (`benchmarks.gpu_compiled`) start, and import what they need. Meanwhile the GPU alone is
   timed, for the sizes of kernels' programs; what is compiled afterwards has those of the table.
2. All workers compile at once. Meanwhile kernels are compared with their references, which a busy
   CPU doesn't disturb.
3. The workers measure, one at a time.
4. The rest, with the machine to itself: eager and recorded towers, time to first token, operations.

The record is written as it grows. What fails is named in it, as is what the time didn't suffice
for; `phases` are the seconds that the parts of the script took. With `--dry` all models are tiny
and any device will do: it shows that the script runs.
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

from benchmarks import first_token, gpu_compiled, kernels, launches
from benchmarks import ops as operations
from benchmarks.encoders import placed
from benchmarks.gpu_run import EARLY, Run, attached, batches, console, device_here
from benchmarks.recording import finish, write_record
from benchmarks.timing import Call, alternating, launched, replayed
from benchmarks.towers import Tower, towers
from benchmarks.workers import Crew
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.ops.launching import fill

EAGER = ("dense", "uniform", "tome", "evoprune", EARLY, "fopru")
#: Least seconds that an operation is timed for.
LEAST = 0.02
#: Seconds in which a worker may begin to compile a graph, and in which it may end the last one.
COMPILING, LAST = 165.0, 40.0
#: Seconds in which a worker must be through with measuring.
MEASURING = 45.0
#: What a dry run has instead, which may share its machine with anything.
DRY = 3600.0
SECTIONS = (
    "left_out",
    "failed",
    "phases",
    "kernels",
    "launches",
    "towers",
    "first_token",
    "operations",
)


@dataclass
class Script(Run):
    """The script's own run, which keeps the record.

    Attributes:
        path: file of the record.
        fills: whether the fastest sizes of kernels are written into their table.
        compiling: seconds in which workers may begin to compile a graph.
        record: what was found so far.
    """

    path: Path
    fills: bool = False
    compiling: float = COMPILING
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        empty: dict[str, list[Any]] = {name: [] for name in SECTIONS}
        environment = describe_environment()
        self.record = {"schema_version": 1, "dry": self.dry, "environment": environment, **empty}

    def put(self, section: str, row: Any) -> None:
        """Add a row to the record, and write it."""
        self.record[section].append(row)
        write_record(self.path, self.record)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note how long this part takes, and if it fails."""
        start = time.monotonic()
        with self.trying(name):
            yield
        self.put("phases", {"phase": name, "seconds": time.monotonic() - start})


def eager(run: Script, tower: Tower) -> None:
    """Dense and every strategy, in turn, with the kernels that they launch; then as CUDA graphs."""
    models = attached(run, tower, EAGER)
    for batch in batches(dry=run.dry):
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


def measure(run: Script) -> None:
    """All parts."""
    compiled_and_alone(run)
    for tower in towers(tiny=run.dry):
        with run.phase(f"{tower.name}, eager"):
            eager(run, tower)
    tokens_and_operations(run)


def compiled_and_alone(run: Script) -> None:
    """What workers compile and measure, and beside it what no busy CPU disturbs."""
    jobs = gpu_compiled.jobs(dry=run.dry, rounds=run.rounds)
    if run.left <= 0:
        for part in (part for job in jobs for part in job.parts):
            run.put("left_out", part)
        jobs = []
    environment = gpu_compiled.environment(max(len(jobs), 1))
    with run.trying("workers"), Crew(jobs, run.put, environment) as crew:
        with run.phase("sizes"):
            sizes(run)
        seconds = max(min(run.compiling, run.left), 0.0)
        until = time.monotonic() + seconds + (DRY if run.dry else LAST)
        crew.prepare(seconds)
        with run.phase("kernels"):
            for row in kernels.compare(run.device, run.dtype, short=run.dry):
                run.put("kernels", row)
        with run.phase("compiling, after the kernels"):
            crew.await_ready(until - time.monotonic())
        with run.phase("measuring what is compiled"):
            crew.measure(DRY if run.dry else MEASURING)


def sizes(run: Script) -> None:
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


def tokens_and_operations(run: Script) -> None:
    """Time to first token, and of each operation."""
    known = {row["model"] for row in run.record["first_token"]}  # from a worker
    for family in first_token.FAMILIES:
        what = f"{family}, time to first token"
        if family not in known and run.begins(what):
            with run.phase(what), first_token.lineup(family, run.device, run.dry) as models:
                for row in models.measure(run.device, run.rounds):
                    run.put("first_token", row)
    for site in operations.SITES[:1]:
        if run.begins(f"operations, {site.name}"):
            with run.phase(f"operations, {site.name}"):
                least = 0.0 if run.dry else LEAST
                counts = (1,) if run.dry else (1, 8)
                for row in operations.measure([site], counts, run.device, run.dtype, least):
                    run.put("operations", row)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run everything, write the record and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/gpu.json"))
    parser.add_argument("--dry", action="store_true", help="tiny models, on any device")
    parser.add_argument("--seconds", type=float, default=420, help="when nothing new is begun")
    parser.add_argument(
        "--compiling",
        type=float,
        help=f"seconds in which the compilation of a graph may begin; default {COMPILING:.0f}",
    )
    parser.add_argument("--rounds", type=int, default=0, help="timed calls; default 10, dry 1")
    parser.add_argument("--fill", action="store_true", help="fill the table of kernels' sizes")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not args.dry:
        parser.error("there is no CUDA device; --dry shows that the script runs")
    rounds = args.rounds or (1 if args.dry else 10)
    until = time.monotonic() + args.seconds
    compiling = args.compiling if args.compiling is not None else DRY if args.dry else COMPILING
    run = Script(device_here(), args.dry, until, rounds, args.out, args.fill, compiling)
    torch.manual_seed(0)
    with torch.inference_mode():
        measure(run)
    return finish(console, args.out, run.record)


if __name__ == "__main__":
    main()
