"""The interface of a pruning method, and its short form for methods that score tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar, overload

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from tokenprune.errors import PlanError, ReductionError, SignalError
from tokenprune.interface.about import About
from tokenprune.interface.forms import SCORES, form_fault
from tokenprune.interface.placement import Decoder, Encoder, Placement, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid, Site, Stage
from tokenprune.interface.text_tower import TowerChoice
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices


class StrategyParams(BaseModel):
    """Base of every strategy's parameters: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ParamsT = TypeVar("ParamsT", bound=StrategyParams)


@dataclass(frozen=True)
class Budget:
    """What the plan asks for at one site.

    Attributes:
        count: tokens that arrive, N.
        keep: tokens K to keep: exactly so many if `length` is `planned`, else at most so many.
        given: whether the plan says so; if not, `keep` is `count`, and the strategy sets its own
            length.
    """

    count: int
    keep: int
    given: bool = True

    @property
    def remove(self) -> int:
        """Tokens to remove, r = N - K."""
        return self.count - self.keep


Length = Literal["planned", "data", "own"]


class PruningStrategy(ABC, Generic[ParamsT]):
    """A method that removes, merges or replaces visual tokens.

    A strategy sees dense batches of visual tokens, of text tokens only if it stands at
    `Decoder(text=True)` and the plan asks, and names no model family.

    Class attributes:
        name: what plans call it.
        Params: its pydantic parameters.
        stages: where it may stand, each place once: `Encoder`, `PreLlm`, `Decoder`.
        length: what sets the number of tokens it leaves. `planned`: the grid and the budget
            alone. `data`: the images too, and `keep` is a ceiling. `own`: the strategy itself; a
            plan may leave `keep` out, and a given one is a ceiling.
        about: what listings and the documentation say of it.
    """

    name: ClassVar[str]
    Params: ClassVar[type[StrategyParams]] = StrategyParams
    stages: ClassVar[tuple[Placement, ...]]
    length: ClassVar[Length] = "planned"
    about: ClassVar[About] = About()

    def __init__(self, params: ParamsT) -> None:
        self.params: ParamsT = params

    @classmethod
    def from_params(cls, **params: Any) -> PruningStrategy[Any]:
        """Build from keyword parameters, validated by `Params`."""
        return cls(cls.Params(**params))  # type: ignore[arg-type]

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Signals needed at a site; none by default."""
        return ()

    @abstractmethod
    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Decide what becomes of the tokens.

        Args:
            tokens: a dense batch, see `Tokens`.
            budget: how many tokens to keep.

        Returns:
            The linear map that the engine applies to everything that rides along.
        """

    def check(self, site: Site, budget: Budget, grid: Grid) -> None:
        """Refuse a site or a budget that the method can't serve; called for each at attach.

        Args:
            site: where it would act.
            budget: tokens that would arrive and be kept, for an image of the default grid.
            grid: that patch grid (t, h, w).

        Raises:
            BudgetError: so many tokens can't be kept here; carries the nearest count that can.
            LayerError: the method can't stand at this layer.
        """

    def proportional(self) -> bool:
        """Whether later attention adds log size to the key logits (ToMe, eq. 1)."""
        return False

    def companions(self) -> Tensor | None:
        """Learned tokens `[G, D]` that read the image in every block and are never read by it."""
        return None

    def text_tower(self) -> TowerChoice | None:
        """The dual encoder whose text tower the strategy's signals are of; None without such ones.

        It is asked at attach, where the strategy needs one of them.

        Raises:
            PlanError: the parameters name none.
        """
        return None

    def spans_frames(self) -> bool:
        """Whether an encoder site shows it all frames of a video at once.

        Then `Tokens` are `[videos, T * N, D]`, frame by frame (prefix tokens `[videos, T * P, D]`),
        and every frame must be left equally many tokens. Attention stays within frames.
        """
        return False

    def trims_cache(self) -> bool:
        """Whether what a decoder stage drops also leaves the KV cache of the layers before it."""
        return False

    def modules(self) -> nn.Module | None:
        """Trainable modules, to be placed on the model's device and saved in a checkpoint."""
        return None


class ScoreStrategy(PruningStrategy[ParamsT]):
    """The short form: give a score, the best tokens stay in raster order."""

    @abstractmethod
    def score(self, tokens: Tokens) -> Tensor:
        """Importance of every token, `[B, N]`; larger stays, ties go to the lower index."""

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep the `budget.keep` best tokens.

        Raises:
            ReductionError: what `score` gave is no real tensor `[B, N]`.
        """
        score = self.score(tokens)
        batch, count, _ = tokens.hidden.shape
        fault = form_fault("scores", score, (batch, count), SCORES)
        if fault:
            raise ReductionError(
                f"the strategy '{self.name}' {fault}.",
                where=str(tokens.site),
                remedy=f"It got {count} tokens in a batch of {batch}.",
            )
        return Reduction.keep(topk_indices(score, budget.keep), tokens.count, score=score)


Kind = PruningStrategy[Any] | type[PruningStrategy[Any]]


def places(strategy: Kind) -> tuple[Stage, ...]:
    """The names of the places at which a strategy may stand, in its own order."""
    return tuple(place.at for place in strategy.stages)


@overload
def placement(strategy: Kind, at: Literal["encoder"], where: str = "") -> Encoder: ...
@overload
def placement(strategy: Kind, at: Literal["pre_llm"], where: str = "") -> PreLlm: ...
@overload
def placement(strategy: Kind, at: Literal["decoder"], where: str = "") -> Decoder: ...
@overload
def placement(strategy: Kind, at: Stage, where: str = "") -> Placement: ...
def placement(strategy: Kind, at: Stage, where: str = "") -> Placement:
    """What a strategy declares for a place.

    Args:
        strategy: the strategy, or its class.
        at: name of the place.
        where: what errors name.

    Raises:
        PlanError: it can't stand there.
    """
    for place in strategy.stages:
        if place.at == at:
            return place
    raise PlanError(
        f"'{strategy.name}' can't act at '{at}'.",
        where=where,
        remedy=f"It acts at: {', '.join(places(strategy))}.",
    )


def asked(strategy: PruningStrategy[Any], site: Site) -> tuple[Signal, ...]:
    """The signals that a strategy asks for at a site.

    Raises:
        SignalError: it answers with something else.
    """
    found: Any = strategy.signals(site)
    signals = tuple(found) if isinstance(found, Iterable) else (found,)
    if isinstance(found, Iterable) and all(isinstance(signal, Signal) for signal in signals):
        return signals
    shown = f"the signal '{found}' alone" if isinstance(found, Signal) else repr(found)
    raise SignalError(
        f"signals() of '{strategy.name}' answered {shown}, where a tuple of signals is right.",
        where=str(site),
        remedy="Write it as in (Signal.KEYS,).",
    )
