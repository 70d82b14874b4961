"""How a benchmark is measured."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.errors.words import counted

#: Below so many rounds, the 95th percentile lies between the two slowest of them.
ENOUGH = 20

#: Quartiles of so many ratios are theirs alone: the ends of three, the one there is (ours).
FEW = 3


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

    @property
    def caveat(self) -> str | None:
        """What p95 and verdicts mean with so few rounds; None if there are enough."""
        if self.rounds > ENOUGH:
            return None
        said = f"with so few rounds ({self.rounds}), p95 is nearly the slowest of them"
        if self.rounds > FEW:
            return said
        return (
            f"{said}, and what is called faster or slower rests on {counted(self.rounds, 'ratio')}"
        )
