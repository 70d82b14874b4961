"""What the strategies answered in a call, noted while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.patching import Patches
from tokenprune.engine.stages import ResolvedStage
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.sites import Site
from tokenprune.interface.tokens import Kind


@dataclass(frozen=True)
class Answer:
    """One reduction as a strategy answered it.

    Attributes:
        stage: number of the stage in the plan, from 0.
        strategy: its name.
        site: where.
        kind: of the tokens.
        index: `[B, N]` patch, or place in the prompt, of every token that arrived.
        size: `[B, N]` patches that each stood for.
        reduction: the answer.
    """

    stage: int
    strategy: str
    site: Site
    kind: Kind
    index: Tensor
    size: Tensor
    reduction: Reduction

    @property
    def creates(self) -> bool:
        """Whether it makes states of its own."""
        return any(part.created is not None for part in self._parts())

    @property
    def restores(self) -> bool:
        """Whether what it dropped is reconstructed later."""
        return any(part.reconstruction is not None for part in self._parts())

    @property
    def averages(self) -> bool:
        """Whether survivors are means of several tokens."""
        return any(part.weight is not None for part in self._parts())

    @property
    def by_size(self) -> bool:
        """Whether these means are weighted by the tokens' sizes."""
        weights = [part.weight for part in self._parts()]
        return not self.reduction.samples and all(
            weight is None or torch.equal(weight.to(self.size), self.size) for weight in weights
        )

    def gone(self) -> Tensor:
        """Indices that left, of a batch of one sample."""
        one = self.reduction.row(0)
        if one.anchor is None:
            return self.index[0, :0]
        left = self.index[0, one.anchor[0]]
        return self.index[0][~torch.isin(self.index[0], left)]

    def _parts(self) -> Sequence[Reduction]:
        return self.reduction.samples or (self.reduction,)


@dataclass
class Taps:
    """The answers of the running call, in order; empty it before every call."""

    answers: list[Answer] = field(default_factory=list)

    @contextmanager
    def on(self, stages: Iterable[ResolvedStage]) -> Iterator[None]:
        """Note what these stages' strategies answer, until the block ends."""
        with Patches() as patches:
            for stage in stages:
                patches.override(stage.strategy, "reduce", self._noting(stage))
            yield

    def _noting(self, stage: ResolvedStage) -> Callable[..., Any]:
        def noted(original: Callable[..., Any], tokens: Any, budget: Any) -> Any:
            found = original(tokens, budget)
            if isinstance(found, Reduction):
                self.answers.append(
                    Answer(
                        stage.number,
                        stage.strategy.name,
                        tokens.site,
                        tokens.kind,
                        tokens.index,
                        tokens.size,
                        found,
                    )
                )
            return found

        return noted
