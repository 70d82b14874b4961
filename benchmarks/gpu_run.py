"""One run of the benchmarks on a GPU: its device, its limits, and where its rows go."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import nn

import tokenprune
from benchmarks.towers import Tower
from tokenprune.lab.bench.compiling import shared_copy

console = Console()
EARLY = "evoprune, early"
#: What the name of a strategy ends in where `handle.record()` replays the tower's passes.
RECORDED = ", recorded"


@dataclass
class Run(ABC):
    """One run, of the script or of one of its workers.

    Attributes:
        device: where it runs.
        dry: whether models are tiny.
        until: `time.monotonic()` at which nothing new is begun.
        rounds: timed calls.
    """

    device: torch.device
    dry: bool
    until: float
    rounds: int

    @abstractmethod
    def put(self, section: str, row: Any) -> None:
        """Add a row to a section of the record."""

    @property
    def dtype(self) -> torch.dtype:
        """Of models and inputs."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def left(self) -> float:
        """Seconds until nothing new is begun."""
        return self.until - time.monotonic()

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
        if self.left > 0:
            console.print(f"{what} ({self.left:.0f} s left)", highlight=False)
            return True
        self.put("left_out", what)
        return False


def batches(*, dry: bool) -> tuple[int, ...]:
    """Batch sizes of towers."""
    return (1, 2) if dry else (1, 8, 32)


def device_here() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def attached(run: Run, tower: Tower, names: Sequence[str]) -> dict[str, nn.Module]:
    """Copies of a tower that share their weights, each with a strategy; the first is dense."""
    with run.device:
        dense = tower.build().to(device=run.device, dtype=run.dtype)
    models = {name: dense if name == "dense" else shared_copy(dense) for name in names}
    for name, model in models.items():
        if name != "dense":
            plain = name.removesuffix(RECORDED)
            strategy, early, _ = plain.partition(", ")
            handle = tokenprune.attach(model, tower.plan(strategy, early=bool(early)))
            if plain != name:
                handle.record()
    return models
