"""A strategy at one stage, and the tokens and budgets that it is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from tokenprune.engine.ask import ask
from tokenprune.engine.conditions import Checks, Conditions
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import BudgetError
from tokenprune.interface.dense import Part
from tokenprune.interface.placement import Encoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.sites import Grid, Site, Stage
from tokenprune.interface.strategy import Budget, PruningStrategy, asked, placement
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import ModelShape
from tokenprune.plan import StagePlan
from tokenprune.plugins.matrix import SHAPE
from tokenprune.testing.fakes import fake_tokens
from tokenprune.testing.record import DoesNotApplyError

SQUARE: Grid = (1, 4, 4)
ODD: tuple[Grid, ...] = ((1, 3, 5), (1, 1, 7), (1, 3, 3), (1, 2, 1))
VIDEO: Grid = (2, 2, 4)
WIDTH, KEEP = 16, 4
MODEL: ModelShape = replace(SHAPE, encoder_width=WIDTH, llm_width=WIDTH, grid=SQUARE)
"""The model that learned strategies are made for, untrained; tiny models are of this shape."""


@dataclass(frozen=True)
class Case:
    """Tokens and a budget.

    Attributes:
        tokens: what arrives.
        keep: tokens to keep, exactly or at most.
    """

    tokens: Tokens
    keep: int

    def __str__(self) -> str:
        batch, count, _ = self.tokens.hidden.shape
        grid = " x ".join(map(str, self.tokens.grid))
        return f"{batch} samples of {count} tokens on a grid of {grid}, {self.keep} to keep"


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        kind: class of the strategy.
        strategy: the strategy, built.
        given: the parameters that the caller gave.
        made: parameters of an untrained instance, which a checkpoint replaces.
        site: where it stands.
        width: channels of the tokens.
        seed: of the numbers.
    """

    kind: type[PruningStrategy[Any]]
    strategy: PruningStrategy[Any]
    given: dict[str, Any]
    made: dict[str, Any]
    site: Site
    width: int
    seed: int = 0

    @property
    def at(self) -> Stage:
        """The stage."""
        return self.site.stage

    @property
    def planned(self) -> bool:
        """Whether grid and budget alone set the length."""
        return self.strategy.length == "planned"

    def stage(self, keep: int) -> ResolvedStage:
        """The stage of a plan at which it keeps so many tokens."""
        given = None if self.strategy.length == "own" else keep
        plan = StagePlan(at=self.at, strategy=self.strategy.name, keep=given)
        return ResolvedStage(0, plan, self.strategy)

    def tokens(self, grid: Grid = SQUARE, **more: Any) -> Tokens:
        """Made-up tokens with the signals that the strategy asks for."""
        companions = self.strategy.companions()
        groups = 4 if companions is None else companions.shape[0]
        wanted = asked(self.strategy, self.site)
        base: dict[str, Any] = {"site": self.site, "width": self.width, "seed": self.seed}
        return fake_tokens(grid=grid, signals=wanted, **(base | {"groups": groups} | more))

    def cases(self, *grids: Grid, all_too: bool = False, **more: Any) -> Iterator[Case]:
        """Tokens with each budget that the strategy doesn't refuse.

        Args:
            *grids: patch grids.
            all_too: with budgets that keep all, too.
            **more: arguments of `fake_tokens`.

        Raises:
            DoesNotApplyError: there is no such budget.
        """
        refusal, found = "", False
        for grid in grids:
            tokens = self.tokens(grid, **more)
            keeps, why = self._keeps(tokens.count, grid)
            refusal = refusal or why
            for keep in keeps:
                if all_too or keep < tokens.count or self.strategy.length == "own":
                    found = True
                    yield Case(tokens, keep)
        if not found:
            raise DoesNotApplyError(refusal or "no budget removes a token")

    def _keeps(self, count: int, grid: Grid) -> tuple[list[int], str]:
        """Budgets that can be kept to, ascending; and why another one can't."""
        own = self.strategy.length == "own"
        tried = [count] if own else sorted({1, count // 3, count // 2, count - 1, count} - {0})
        allowed, why = [], ""
        for keep in tried:
            if self._halves and keep < count - count // 2:
                why = "at most half of the tokens are removed at once"
                continue
            try:
                self.strategy.check(self.site, Budget(count, keep, not own), grid)
            except BudgetError as error:
                why, near = error.message, error.nearest
                if near is not None and near <= count and near not in tried:
                    tried.append(int(near))  # and the loop goes on to it
            else:
                allowed.append(keep)
        return sorted(allowed), why

    @property
    def _halves(self) -> bool:
        own = placement(self.strategy, self.at)
        return isinstance(own, Encoder) and own.halves

    def answer(self, case: Case) -> Reduction:
        """What the strategy says, unchecked."""
        given = self.strategy.length != "own"
        budget = Budget(case.tokens.count, case.keep, given)
        with torch.no_grad():
            return self.strategy.reduce(case.tokens, budget)

    def ask(self, case: Case) -> list[Part]:
        """What the engine makes of the answer, with all its checks.

        Raises:
            TokenpruneError: the answer is wrong.
        """
        conditions = Conditions(Checks("always"))
        with torch.no_grad():
            parts = ask(self.stage(case.keep), case.tokens, case.keep, conditions)
        conditions.settle()
        return parts
