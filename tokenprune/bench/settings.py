"""How a benchmark is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchSettings:
    """How to measure.

    Attributes:
        rounds: measurements of every row; their order is drawn anew in each round.
        warmup: untimed calls of every row before.
        flops: `measured` by the counter, or by `formula`.
        seed: of inputs and orders.
        compile: mode of `torch.compile` for further rows, `default` or `reduce-overhead`; None
            for none.
    """

    rounds: int = 7
    warmup: int = 1
    flops: str = "measured"
    seed: int = 0
    compile: str | None = None
