"""What `benchmarks/gpu.sh` measures through `torch.compile`, in processes of their own.

Compiling is work of the CPU, 16 to 26 seconds a graph on the machine of the record, and measuring
is over in no time. So each tower and batch size has a worker (`benchmarks.workers`): all compile at
once, then they measure one at a time, dense alternating with the strategies in the same process.
By hand, with the orders typed in:

    python -m benchmarks.gpu_compiled --tower clip-l14-336 --batch 1
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch

from benchmarks import first_token
from benchmarks.encoders import placed
from benchmarks.gpu_run import EARLY, RECORDED, Run, attached, batches, device_here
from benchmarks.timing import Call, alternating, queued
from benchmarks.towers import Tower, towers
from benchmarks.workers import DONE, READY, Job, Orders
from tokenprune.lab.bench.compiling import compilations, room

COMPILED = ("dense", "evoprune", EARLY, "tome")
#: Not compiled, but replayed as CUDA graphs as well; they alternate with compiled towers.
REPLAYED = tuple(f"{name}{RECORDED}" for name in ("evoprune", EARLY, "tome"))
#: That first which a compiled dense tower is fastest in.
MODES: dict[str, str] = {"graphs": "reduce-overhead", "compiled": "default"}
#: Calls until a graph of kernels is replayed: one compiles, one records.
WARMING = 3


def jobs(*, dry: bool, rounds: int) -> list[Job]:
    """A worker for each tower and batch size, and one for each family's time to first token.

    A dry run has one batch size only, and one tower of each kind: its processes mostly import.
    """
    common = ["--rounds", str(rounds), *(["--dry"] if dry else [])]
    found = []
    for batch in batches(dry=dry)[: 1 if dry else 2]:
        for tower in one_of_a_kind() if dry else towers():
            parts = [_cell(tower, batch, mode) for mode in MODES]
            options = ["--tower", tower.name, "--batch", str(batch), *common]
            found.append(_job(f"{tower.name}, batch {batch}, torch.compile", parts, options))
    for family in first_token.TOWERS:
        parts = [_answer(family, name) for name in first_token.COMPILED]
        found.append(_job(f"{family}, first token", parts, ["--family", family, *common]))
    return found


def one_of_a_kind() -> list[Tower]:
    """The last of the tiny towers that are packed, and of those that are not."""
    return list({tower.packed: tower for tower in towers(tiny=True)}.values())


def compiled(*, dry: bool) -> tuple[str, ...]:
    """Strategies of compiled towers; a dry run, where tracing takes longest, has dense and one."""
    return COMPILED[:2] if dry else COMPILED


def environment(workers: int) -> dict[str, str]:
    """Of the workers: each compiles kernels with few processes, so that all together fill the CPU.

    Args:
        workers: how many there are.
    """
    threads = -(-2 * (os.cpu_count() or 1) // workers)  # half of the time they trace, alone (ours)
    return {"TORCHINDUCTOR_COMPILE_THREADS": str(threads)}


def _job(name: str, parts: Sequence[str], options: Sequence[str]) -> Job:
    return Job(name, tuple(parts), (sys.executable, "-m", __spec__.name, *options))


def _cell(tower: Tower, batch: int, mode: str) -> str:
    return f"{tower.name}, batch {batch}, {mode}"


def _answer(family: str, name: str) -> str:
    return f"{family}, time to first token, {name}"


@dataclass
class Working(Run):
    """A worker's run, whose rows go to the parent."""

    orders: Orders

    def put(self, section: str, row: Any) -> None:
        """Hand it to the parent."""
        self.orders.put(section, row)

    def begin(self) -> None:
        """Wait for the order to prepare, and for how long."""
        (seconds,) = self.orders.wait_for("prepare")
        self.until = time.monotonic() + float(seconds)

    def options(self, mode: str) -> dict[str, Any]:
        """Of `torch.compile`; a dry run only traces, for which any machine has the time."""
        return {"dynamic": False} | ({"backend": "eager"} if self.dry else {"mode": mode})


@dataclass
class Cell:
    """A tower, batch size and mode, with what has been compiled for it.

    Attributes:
        what: its name in the record.
        row: fields that all of its rows share.
        calls: by strategy, compiled and warm.
        facts: by strategy, what compiling it was like.
    """

    what: str
    row: dict[str, Any]
    calls: dict[str, Call] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def prepare(self, run: Working, models: dict[str, Any], given: dict[str, Any]) -> None:
        """Compile every strategy, as far as there is time."""
        if not run.begins(self.what):
            return
        for name, model in models.items():
            what = f"{self.what}, {name}"
            if not run.begins(what):
                continue
            with run.trying(what), room():
                if name in REPLAYED:
                    self.warm(name, partial(model, **given))
                    continue
                options = run.options(MODES[self.row["mode"]])
                call = partial(torch.compile(model, **options), **given)
                graphs, skipped, start = compilations(), skips(), time.perf_counter()
                call()
                self.facts[name] = {
                    "compiling": time.perf_counter() - start,  # with all others beside it
                    "graphs": compilations() - graphs,
                    "graphs_not_recorded": skips() - skipped,
                }
                self.warm(name, call)

    def warm(self, name: str, call: Call) -> None:
        """Call until nothing is recorded any more."""
        self.facts.setdefault(name, {})
        for _ in range(WARMING):
            call()
        self.calls[name] = call

    def measure(self, run: Working) -> None:
        """All strategies in turn, with what the CPU does ahead of a pass, and without."""
        with run.trying(self.what):
            times = alternating(self.calls, run.device, run.rounds)
            alone = queued(self.calls, run.device, run.rounds)
            for name, seconds in times.items():
                row = {**self.row, "strategy": name, "seconds": seconds}
                run.put("towers", row | {"gpu_seconds": alone[name]} | self.facts[name])


def skips() -> int:
    """How many graphs `reduce-overhead` didn't record as CUDA graphs so far, in this process."""
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["cudagraph_skips"])


def measure_tower(run: Working, tower: Tower, batch: int) -> None:
    """Both modes of a tower at this batch size."""
    run.begin()
    replayed = () if tower.packed else REPLAYED
    # what is replayed needs no compiler, so a worker that is short of time has it all the same
    dense, *others = compiled(dry=run.dry)
    models = attached(run, tower, (dense, *replayed, *others))
    alone = {name: model for name, model in models.items() if name not in replayed}
    given = placed(tower.inputs(batch), run.device, run.dtype)
    cells = []
    for mode in MODES:
        row = {"tower": tower.name, "batch": batch, "mode": mode}
        cells.append(Cell(_cell(tower, batch, mode), row))
        cells[-1].prepare(run, models if mode == "graphs" else alone, given)
    run.orders.reach(READY)
    run.orders.wait_for("measure")
    for cell in cells:
        if cell.calls:
            cell.measure(run)
    run.orders.reach(DONE)


def measure_first_token(run: Working, family: str) -> None:
    """A family's time to first token, with eager towers and with compiled ones."""
    run.begin()
    with first_token.lineup(family, run.device, run.dry) as models:
        for name in first_token.COMPILED:
            what = _answer(family, name)
            if run.begins(what):
                with run.trying(what):
                    models.compile_tower(name, WARMING, run.options("reduce-overhead"))
        with run.trying(_answer(family, first_token.RECORDED)):
            models.record_tower(WARMING)
        run.orders.reach(READY)
        run.orders.wait_for("measure")
        for row in models.measure(run.device, run.rounds):
            run.put("first_token", row)
    run.orders.reach(DONE)


def main(arguments: Sequence[str] | None = None) -> None:
    """One worker."""
    known = {one.name: one for dry in (False, True) for one in towers(tiny=dry)}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tower", choices=known)
    parser.add_argument("--batch", type=int, default=1, help="pictures that the tower is given")
    parser.add_argument("--family", choices=first_token.TOWERS, help="its time to first token")
    parser.add_argument("--dry", action="store_true", help="trace only, and tiny models")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args(arguments)
    if not args.dry:  # it takes long, which can be ahead of the first order
        import_module("torch._inductor.compile_fx")
    if (args.tower is None) == (args.family is None):
        parser.error("give --tower or --family")
    torch.manual_seed(0)
    run = Working(device_here(), args.dry, time.monotonic(), args.rounds, Orders())
    with torch.inference_mode():
        if args.tower is None:
            measure_first_token(run, args.family)
        else:
            measure_tower(run, known[args.tower], args.batch)
    run.orders.rest()  # whoever ends keeps the machine busy, while others measure


if __name__ == "__main__":
    main()
