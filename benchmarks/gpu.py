"""Everything that only a GPU can tell, within a time limit: kernels, towers, time to first token.

    benchmarks/gpu.sh

Parts run in the order of their worth; what the time didn't suffice for is named in the record.
With `--dry` all models are tiny and any device will do: it shows that the script runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import tokenprune
from benchmarks import first_token
from benchmarks.encoders import placed
from benchmarks.ops import Site, cases
from benchmarks.recording import write_record
from benchmarks.timing import alternating, launches
from benchmarks.towers import Tower, towers
from tokenprune import ops
from tokenprune.lab.bench.compiling import shared_copy
from tokenprune.lab.measure.environment import describe_environment

console = Console()
STRATEGIES = ("tome", "evoprune", "fopru")
MODES: dict[str, str | None] = {"compiled": "default", "graphs": "reduce-overhead"}
#: Odd numbers of tokens and widths: nothing that a block of a kernel divides.
ODD = (Site("odd", 37, 3, 40), Site("odd", 197, 3, 72), Site("odd", 577, 5, 64))


@dataclass
class Run:
    """One run of the script.

    Attributes:
        device: where it runs.
        dry: whether models are tiny.
        until: `time.monotonic()` at which nothing new is begun.
        rounds: timed calls.
        left_out: what the time didn't suffice for.
    """

    device: torch.device
    dry: bool
    until: float
    rounds: int
    left_out: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """Of models and inputs."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of towers."""
        return (1, 2) if self.dry else (1, 8, 32)

    def begins(self, what: str) -> bool:
        """Whether there is time for something; notes it if there isn't."""
        if time.monotonic() < self.until:
            console.print(what, highlight=False)
            return True
        self.left_out.append(what)
        return False


def kernels(run: Run) -> Iterator[dict[str, Any]]:
    """Every Triton kernel against its reference at odd sizes: the largest difference."""
    has_triton = {choice.op: choice.backend == "triton" for choice in ops.explain(run.device)}
    for site in ODD[: 1 if run.dry else None]:
        for name, call in cases(site, 3, run.device, run.dtype).items():
            row: dict[str, Any] = {"op": name, "tokens": site.tokens, "dtype": str(run.dtype)}
            with ops.use_backend("reference"):
                expected = _tensors(call())
            if not has_triton[name]:
                yield row | {"triton": "no kernel runs here"}
                continue
            with ops.use_backend("triton"):
                found = _tensors(call())
            pairs = list(zip(found, expected, strict=True))
            yield row | {"triton": "ran", **_difference(pairs)}


def _tensors(made: Any) -> list[Tensor]:
    if isinstance(made, Tensor):
        return [made]
    return [tensor for part in made for tensor in _tensors(part)]


def _difference(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Of numbers the largest difference, of indices the share that agrees."""
    numbers = [(a, b) for a, b in pairs if a.is_floating_point()]
    indices = [(a, b) for a, b in pairs if not a.is_floating_point()]
    found = {}
    if numbers:
        found["difference"] = max(float((a - b).abs().nan_to_num().max()) for a, b in numbers)
    if indices:
        found["same"] = min(float((a == b).float().mean()) for a, b in indices)
    return found


def eager(run: Run, tower: Tower) -> Iterator[dict[str, Any]]:
    """Dense and every strategy, in turn, with the kernels that they launch."""
    dense = tower.build().to(device=run.device, dtype=run.dtype)
    models = {"dense": dense, **{name: shared_copy(dense) for name in STRATEGIES}}
    for name in STRATEGIES:
        tokenprune.attach(models[name], tower.plan(name))
    for batch in run.batches:
        if not run.begins(f"{tower.name}, batch {batch}, eager"):
            continue
        given = placed(tower.inputs(batch), run.device, run.dtype)
        calls = {name: partial(model, **given) for name, model in models.items()}
        times = alternating(calls, run.device, run.rounds)
        for name, call in calls.items():
            row = {"tower": tower.name, "batch": batch, "mode": "eager", "strategy": name}
            yield row | {"seconds": times[name], "launches": launches(call, run.device)}


def compiled(run: Run, tower: Tower, mode: str, batch: int) -> Iterator[dict[str, Any]]:
    """The same through `torch.compile`, each by itself."""
    dense = tower.build().to(device=run.device, dtype=run.dtype)
    given = placed(tower.inputs(batch), run.device, run.dtype)
    # on a CPU without the time to generate code, tracing alone shows that it works
    options: dict[str, Any] = {"backend": "eager"} if run.dry else {"mode": MODES[mode]}
    for name in ("dense", "evoprune", "tome"):
        if not run.begins(f"{tower.name}, batch {batch}, {mode}, {name}"):
            continue
        torch.compiler.reset()
        model = shared_copy(dense)
        if name != "dense":
            tokenprune.attach(model, tower.plan(name))
        call = torch.compile(model, **options)
        start = time.perf_counter()
        call(**given)
        first = time.perf_counter() - start
        times = alternating({name: partial(call, **given)}, run.device, run.rounds)
        row = {"tower": tower.name, "batch": batch, "mode": mode, "strategy": name}
        yield row | {"seconds": times[name], "compiling": first}


def measure(run: Run) -> dict[str, Any]:
    """All parts."""
    known = towers(tiny=run.dry)
    record: dict[str, Any] = {"kernels": list(kernels(run))}
    record["towers"] = [row for tower in known for row in eager(run, tower)]
    record["first_token"] = []
    for family in first_token.FAMILIES:
        if run.begins(f"{family}, time to first token"):
            record["first_token"] += first_token.measure(family, run.device, run.dry, run.rounds)
    for batch in run.batches[: 1 if run.dry else 2]:
        for mode in MODES:
            for tower in known[: 1 if run.dry else None]:
                record["towers"] += compiled(run, tower, mode, batch)
    return record


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run everything, write the record and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/gpu.json"))
    parser.add_argument("--dry", action="store_true", help="tiny models, on any device")
    parser.add_argument("--seconds", type=float, default=420, help="when nothing new is begun")
    parser.add_argument("--rounds", type=int, default=0, help="timed calls; default 20, dry 1")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not args.dry:
        parser.error("there is no CUDA device; --dry shows that the script runs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = args.rounds or (1 if args.dry else 20)
    run = Run(device, args.dry, time.monotonic() + args.seconds, rounds)
    torch.manual_seed(0)
    with torch.inference_mode():
        found = measure(run)
    record = {
        "schema_version": 1,
        "dry": args.dry,
        "environment": describe_environment(),
        "left_out": run.left_out,
        **found,
    }
    write_record(args.out, record)
    console.print(f"written to {args.out}")
    return record


if __name__ == "__main__":
    main()
