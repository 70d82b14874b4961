"""The budget in front of the LLM from an average over its layers, later stages applied."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tokenprune.errors import BudgetError
from tokenprune.plan.budget import average, decoder_keeps


@dataclass(frozen=True)
class Coupling:
    """The decoder stages that a budget in front of the LLM has to reckon with.

    Attributes:
        average: visual tokens per image (frame), averaged over the LLM's layers.
        keeps: budgets of the decoder stages, in order; tokens are per image (frame).
        at: layer whose input each of them prunes, ascending.
        layers: number of layers of the LLM.
    """

    average: float
    keeps: tuple[int | float, ...]
    at: tuple[int, ...]
    layers: int

    def arrivals(self, most: int, frames: int = 1, where: str = "") -> int:
        """The most tokens that may enter the LLM so that the mean over its layers fits.

        For one decoder stage before layer k of L that keeps a share R of n tokens, the largest n
        with n (k + (L - k) R) / L <= average, R n rounded down (VScan, arXiv 2505.22654).

        Args:
            most: tokens that arrive at the stage in front of the LLM.
            frames: of how many images they are.
            where: place to name in errors.

        Raises:
            BudgetError: no number reaches the average; `nearest` is the closest one that can be.
        """
        keeps = [keep * frames if isinstance(keep, int) else keep for keep in self.keeps]
        target = self.average * frames

        def feasible(count: int) -> bool:
            try:
                decoder_keeps(keeps, self.at, count, self.layers)
            except BudgetError:
                return False
            return True

        def mean(count: int) -> float:
            left = decoder_keeps(keeps, self.at, count, self.layers)
            return average(left, self.at, count, self.layers)

        least = 1 + bisect_left(range(1, most + 1), True, key=feasible)
        if least > most:  # for a decoder stage even all are too few, which it says itself
            return most
        if not mean(least) - 1e-6 <= target <= mean(most) + 1e-6:
            nearest = (mean(least) if target < mean(least) else mean(most)) / frames
            raise BudgetError(
                f"an average of {self.average:g} visual tokens over {self.layers} layers can't be "
                f"reached: {most // frames} tokens arrive{self._behind()}.",
                where=where,
                remedy=f"The nearest feasible average is {nearest:g}.",
                nearest=nearest,
            )
        return least - 1 + bisect_right(range(least, most + 1), target + 1e-6, key=mean)

    def _behind(self) -> str:
        stages: Sequence[str] = [
            f"{keep:g} before layer {layer}"
            for keep, layer in zip(self.keeps, self.at, strict=True)
        ]
        return f", and later stages keep {', '.join(stages)}" if stages else ""
