"""A training run: its command line, its stages, its log."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from training.shared.recipe import Schedule, StageT, scaled

log = logging.getLogger("training")

LOG_EVERY, SAVE_EVERY = 25, 100

StageC = TypeVar("StageC", bound=Schedule, contravariant=True)


def arguments(text: str | None, *, workers: bool = False) -> argparse.ArgumentParser:
    """What every run is asked for.

    Args:
        text: what the command says of itself.
        workers: whether also for the number of processes that draw pictures.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the steps")
    if workers:
        parser.add_argument("--workers", type=int, default=1)
    return parser


class Trains(Protocol[StageC]):
    """What trains a model stage by stage."""

    def run(self, stage: StageC, number: int, options: argparse.Namespace) -> None:
        """Train one stage."""

    def save(self, path: Path) -> None:
        """Write a checkpoint."""

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""


def train(
    parser: argparse.ArgumentParser, made: Callable[[int], Trains[StageT]], stages: Sequence[StageT]
) -> None:
    """The command that runs all stages, resuming after the last one that left a checkpoint.

    One thread trains.

    Args:
        parser: of `arguments`.
        made: the trainer, from the seed.
        stages: all, in order.
    """
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = made(options.seed)
    for number, stage in enumerate(stages):
        path = options.out / f"{stage.name}.pt"
        if path.exists():
            trainer.load(path)
        else:
            trainer.run(scaled(stage, options.scale), number, options)
            trainer.save(path)


class Meter:
    """Running means, written to the log now and then.

    Args:
        name: of the stage.
        steps: that it takes.
        batch: images or clips a step.
        unit: how their rate is called; records are made from the log.
        digits: of the rate.
    """

    def __init__(self, name: str, steps: int, batch: int, unit: str, digits: int) -> None:
        self.name, self.steps, self.batch, self.unit, self.digits = name, steps, batch, unit, digits
        self.begin = time.perf_counter()
        self.sums: dict[str, list[float]] = {}

    def add(self, step: int, scores: Mapping[str, float]) -> None:
        """Take in one step."""
        for name, value in scores.items():
            self.sums.setdefault(name, []).append(value)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == self.steps:
            means = " ".join(f"{n} {sum(v) / len(v):.3f}" for n, v in self.sums.items())
            rate = (step + 1) * self.batch / (time.perf_counter() - self.begin)
            shown = f"{rate:.{self.digits}f} {self.unit}"
            log.info("%s %d/%d %s %s", self.name, step + 1, self.steps, shown, means)
            self.sums.clear()
