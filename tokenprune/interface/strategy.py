"""The interface of a pruning method, and its short form for methods that score tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.tokens import Site, Stage, Tokens
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
        keep: tokens that must leave, K; dynamic strategies may treat it as a guide.
        given: whether the plan says so; if not, `keep` is `count`, and the strategy is `adaptive`.
    """

    count: int
    keep: int
    given: bool = True

    @property
    def remove(self) -> int:
        """Tokens to remove, r = N - K."""
        return self.count - self.keep


@dataclass(frozen=True)
class ModelShape:
    """What a learned strategy has to know of a model to be trained for it.

    Attributes:
        encoder_width: D, channels of the encoder's tokens.
        encoder_blocks: blocks that feed the projector.
        grid: the default patch grid (t, h, w).
        llm_width: channels of the LLM.
        llm_layers: layers of the LLM.
    """

    encoder_width: int
    encoder_blocks: int
    grid: tuple[int, int, int]
    llm_width: int
    llm_layers: int


class PruningStrategy(ABC, Generic[ParamsT]):
    """A method that removes, merges or replaces visual tokens.

    A strategy sees dense batches of visual tokens, of text tokens only if it declares
    `prunes_text` and the plan asks, and names no model family.

    Class attributes:
        name: what plans call it.
        Params: its pydantic parameters.
        stages: where it may stand.
        summary, paper, licence_note: for `tokenprune describe` and the docs.
        ours: parameters whose default is ours and not the paper's, with the reason.
        where: `inside` a block, between attention and MLP; or `before` a block.
        default_schedule: how an encoder budget is spread if the plan doesn't say.
        default_layer: the single layer it acts at if the plan doesn't say; see `layer_for`.
        spreads: whether it can act at several encoder blocks under a schedule.
        static: its output length follows from the grid and the budget alone.
        restores: the encoder hands on all tokens again after the last block.
        training_free: needs no checkpoint.
        halves: removes at most half of the tokens at once (bipartite matching).
        prunes_text: a decoder stage may also give it text tokens (`Tokens.kind == "text"`), if
            the plan says `keep_text`; it answers those with `keep` or `keep_mask`.
        projected: at `pre_llm` it sees the projector's output instead of its input.
        adaptive: it sets its own budget; a plan may leave `keep` out, and a given one is a
            ceiling. Not `static`.
        every_layer: a decoder stage asks it before every layer of the plan's `layers` (default:
            all that no other stage bounds), until no token is left.
        second_keep: for methods of two coupled stages, the share of the first one's tokens that
            the second, inside the LLM, keeps; comparisons show both together.
        video_variants: rows of their own in comparisons on videos: what is added to the name, and
            parameters.
    """

    name: ClassVar[str]
    Params: ClassVar[type[StrategyParams]] = StrategyParams
    stages: ClassVar[tuple[Stage, ...]]
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    licence_note: ClassVar[str] = ""
    ours: ClassVar[dict[str, str]] = {}
    where: ClassVar[Literal["inside", "before"]] = "inside"
    default_schedule: ClassVar[str] = "skip"
    default_layer: ClassVar[int | None] = None
    spreads: ClassVar[bool] = True
    static: ClassVar[bool] = True
    restores: ClassVar[bool] = False
    training_free: ClassVar[bool] = True
    halves: ClassVar[bool] = False
    prunes_text: ClassVar[bool] = False
    projected: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    every_layer: ClassVar[bool] = False
    second_keep: ClassVar[float | None] = None
    video_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

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
            budget: how many must leave.

        Returns:
            The linear map that the engine applies to everything that rides along.
        """

    def check(self, site: Site, budget: Budget, grid: tuple[int, int, int]) -> None:
        """Refuse a site or a budget that the method can't serve; called for each at attach.

        Args:
            site: where it would act.
            budget: tokens that would arrive and leave, for an image of the default grid.
            grid: that patch grid (t, h, w).

        Raises:
            BudgetError: so many tokens can't be kept here; carries the nearest count that can.
            LayerError: the method can't stand at this layer.
        """

    def proportional(self) -> bool:
        """Whether later attention adds log size to the key logits (ToMe, eq. 1)."""
        return False

    @classmethod
    def layer_for(cls, layers: int) -> int | None:
        """The layer it acts at in an LLM of `layers` layers if the plan doesn't say."""
        return cls.default_layer

    def companions(self) -> Tensor | None:
        """Learned tokens `[G, D]` that read the image in every block and are never read by it."""
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

    @classmethod
    def untrained(cls, shape: ModelShape, keep: int | None) -> Mapping[str, Any]:
        """Parameters of an instance with random weights for a model; learned strategies only.

        Args:
            shape: the model.
            keep: tokens per image that it must leave; None where the plan doesn't say.
        """
        return {}

    @classmethod
    def shipped(cls) -> Mapping[str, Path]:
        """Checkpoint files that ship with a learned strategy, by name."""
        return {}


class ScoreStrategy(PruningStrategy[ParamsT]):
    """The short form: give a score, the best tokens stay in raster order."""

    @abstractmethod
    def score(self, tokens: Tokens) -> Tensor:
        """Importance of every token, `[B, N]`; larger stays, ties go to the lower index."""

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep the `budget.keep` best tokens."""
        score = self.score(tokens)
        return Reduction.keep(topk_indices(score, budget.keep), tokens.count, score=score)
