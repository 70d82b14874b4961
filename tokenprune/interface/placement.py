"""Where a strategy can stand in a model, and what each place needs to know of the strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Positions = Literal["original", "compact"]
"""Position ids of survivors in the LLM: their own, or renumbered without gaps."""


@dataclass(frozen=True)
class Encoder:
    """Inside the vision encoder.

    Attributes:
        where: `inside` a block, between attention and MLP; or `before` a block.
        layer: the one block (0-based) at which the strategy acts if the plan names none. A
            strategy with a layer of its own has no schedule.
        schedule: how a budget is spread over blocks if the plan doesn't say; None for strategies
            that act at one block, which the plan has to name unless `layer` is given.
        halves: at most half of the tokens are removed at once (bipartite matching).
        restores: the encoder hands on all tokens again after the last block.
        positions: position ids of what it leaves, as its official code has them; a plan's word
            comes first, and without either they stay `original`.
    """

    at: ClassVar[Literal["encoder"]] = "encoder"

    where: Literal["inside", "before"] = "inside"
    layer: int | None = None
    schedule: str | None = "skip"
    halves: bool = False
    restores: bool = False
    positions: Positions | None = None

    @property
    def default_schedule(self) -> str | None:
        """The schedule that a plan gets; None if the strategy acts at one block."""
        return self.schedule if self.layer is None else None


@dataclass(frozen=True)
class PreLlm:
    """Between the vision encoder and the LLM.

    Attributes:
        projected: the strategy sees the projector's output instead of its input.
        positions: position ids of what it leaves, as its official code has them; a plan's word
            comes first, and without either they stay `original`.
        maps: the strategy reads places on the grid. A picture that the model sees in several maps,
            such as an overview and tiles, is shown to it with each map as a frame, as large as the
            largest of them; parts of the grid may hold no token. To others its tokens stand in a
            line, (1, 1, N).
    """

    at: ClassVar[Literal["pre_llm"]] = "pre_llm"

    projected: bool = False
    positions: Positions | None = None
    maps: bool = False


@dataclass(frozen=True)
class Step:
    """One of several layers of the LLM in front of which a strategy acts.

    Attributes:
        layer: the layer, from 0.
        keep: share of the tokens arriving there that stays if the plan has no budget; with 1 the
            strategy only looks, whatever the plan says.
    """

    layer: int
    keep: float


@dataclass(frozen=True)
class Decoder:
    """Inside the LLM, in front of a layer.

    Attributes:
        layer: the layer (0-based) in front of which the strategy acts if the plan names none, or
            a function that tells it from the number of layers; None if every plan has to say.
        steps: the layers in front of which the strategy acts if the plan names none, ascending, and
            what it keeps there, told from the number of layers; not with `layer`.
        every_layer: the strategy is asked in front of every layer of the plan's `layers` (default:
            all from `layer` on, else from 1, that no other stage bounds), until no token is left.
        text: a plan may say `keep_text`; the strategy then also gets text tokens
            (`Tokens.kind == "text"`) and answers those with `keep` or `keep_mask`.
        positions: position ids of what it leaves, as its official code has them; a plan's word
            comes first, and without either they stay `original`.
        maps: as for `PreLlm`; the images of a prompt are frames anyway.
    """

    at: ClassVar[Literal["decoder"]] = "decoder"

    layer: int | Callable[[int], int] | None = None
    steps: Callable[[int], Sequence[Step]] | None = None
    every_layer: bool = False
    text: bool = False
    positions: Positions | None = None
    maps: bool = False

    def layer_of(self, layers: int) -> int | None:
        """The strategy's own layer in an LLM of `layers` layers; None if it has none."""
        return self.layer(layers) if callable(self.layer) else self.layer


Placement = Encoder | PreLlm | Decoder


def default_schedules(stages: tuple[Placement, ...]) -> list[str]:
    """The schedules that plans needn't name."""
    own = [place.default_schedule for place in stages if isinstance(place, Encoder)]
    return [name for name in own if name is not None]


def own_layers(stages: tuple[Placement, ...]) -> list[str]:
    """The layers that plans needn't name, in words: `3`, or `16 of 32, by depth`."""
    found = []
    for place in stages:
        if isinstance(place, Encoder) and place.layer is not None:
            found.append(str(place.layer))
        elif isinstance(place, Decoder) and place.layer is not None:
            deep, flat = place.layer_of(32), place.layer_of(8)
            found.append(f"{deep}" if deep == flat else f"{deep} of 32, by depth")
        elif isinstance(place, Decoder) and place.steps is not None:
            *first, last = (str(step.layer) for step in place.steps(32))
            found.append(f"{', '.join(first)} and {last} of 32, by depth")
    return found
