"""Plans as data: what is removed where, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, FiniteFloat, Tag, field_validator, model_validator

from tokenprune.interface.placement import Positions
from tokenprune.interface.sites import STAGES, Stage
from tokenprune.plan.keep import Average, Frozen, Keep, KeepText, PerTile, Total

ScheduleName = Literal["mean", "skip", "first", "last", "increasing", "decreasing"]


class ScheduleSpec(Frozen):
    """A schedule with its parameter."""

    name: ScheduleName
    """Which schedule."""
    blocks: Annotated[int, Field(strict=True, ge=1)] | None = None
    """For `first` and `last`: how many blocks. Default: half of them (the paper's 13 of 26)."""
    power: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """For `increasing` and `decreasing`: exponent of the block number. Default: 1 (the paper's)."""

    @model_validator(mode="after")
    def _parameters_fit(self) -> ScheduleSpec:
        if self.blocks is not None and self.name not in ("first", "last"):
            raise ValueError(f"'blocks' belongs to 'first' and 'last', not to '{self.name}'")
        if self.power is not None and self.name not in ("increasing", "decreasing"):
            raise ValueError(f"'power' belongs to 'increasing' and 'decreasing', not '{self.name}'")
        return self


def _schedule_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "named"
    if isinstance(value, list | tuple):
        return "numbers"
    return "spec" if isinstance(value, ScheduleSpec | Mapping) else None


Schedule = Annotated[
    Annotated[ScheduleName, Tag("named")]
    | Annotated[tuple[Annotated[int, Field(strict=True, ge=0)], ...], Tag("numbers")]
    | Annotated[ScheduleSpec, Tag("spec")],
    Discriminator(
        _schedule_tag,
        custom_error_type="schedule",
        custom_error_message="write a schedule's name, {name: first, blocks: 13} or a list of "
        "removals, one a block",
    ),
]

Index = Annotated[int, Field(strict=True, ge=0)]


class StagePlan(Frozen):
    """One stage: a strategy, where it acts and what it leaves."""

    at: Stage
    """`encoder` (inside the vision encoder), `pre_llm` (after it, before the projector) or
    `decoder` (inside the LLM)."""
    strategy: str
    """Name of a registered strategy; `tokenprune list` shows them."""
    keep: Keep | None = None
    """What leaves the stage, per image (per frame of a video; at `encoder`, per tile or crop of an
    image that the tower sees in several): tokens (`128`), a ratio of the tokens that arrive
    (`0.25`, rounded down, at least one token), tokens for every tile (`{per_tile: 64}`) or, for
    `pre_llm` and `decoder`, `{total: 640}` for all images of a prompt together, or `{average: 192}`
    over the LLM's layers. Strategies that set their own budget may go without; for them, and for
    tokens in stages behind them, it is a ceiling."""
    keep_text: KeepText | None = None
    """`decoder` only, for strategies that can prune text: what leaves the stage of every prompt's
    prunable text tokens, as tokens (at most; a shorter prompt keeps all) or as a ratio of those
    that arrive (rounded down, at least one). Default: text is never touched."""
    schedule: Schedule | None = None
    """`encoder` only: how the removals are spread over the blocks. Default: the strategy's own."""
    layer: Index | None = None
    """`decoder`: the layer whose input is pruned. `encoder`: the one block to act in. Default: the
    strategy's own. Counted from 0."""
    layers: tuple[Index, Index] | None = None
    """First and last block, both included: of the schedule at `encoder` (default: all used), or
    of the layers before which a `decoder` strategy that acts at every layer is asked."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The strategy's parameters; `tokenprune describe NAME` shows them."""

    @field_validator("layers")
    @classmethod
    def _ascending(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"the first block {value[0]} comes after the last, {value[1]}")
        return value

    @model_validator(mode="after")
    def _keys_fit_the_stage(self) -> StagePlan:
        alien = {
            "encoder": ("keep_text",),
            "pre_llm": ("keep_text", "schedule", "layer", "layers"),
            "decoder": ("schedule",),
        }
        for key in alien.get(self.at, ()):
            if getattr(self, key) is not None:
                raise ValueError(f"'{key}' has no meaning at '{self.at}': remove it")
        if self.layer is not None and (self.layers or self.schedule is not None):
            raise ValueError(
                "'layer' names one block, so 'layers' and 'schedule' can't stand by it"
            )
        if isinstance(self.keep, Average) and self.at == "encoder":
            raise ValueError(f"an average over the LLM's layers can't be kept at '{self.at}'")
        if isinstance(self.keep, Total) and self.at == "encoder":
            raise ValueError(
                "the vision encoder sees every image apart, so a total over a prompt's images "
                f"can't be kept at '{self.at}': write tokens, a ratio or {{per_tile: 64}}"
            )
        return self


class Plan(Frozen):
    """A complete plan; without stages the model stays dense."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: str | None = None
    """A name for reports."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """The only source of randomness."""
    positions: Positions | None = None
    """Position ids of the survivors in the LLM: their own (`original`), or renumbered without gaps
    (`compact`). Default: what the stages' strategies say, as their official code has it
    (`tokenprune describe NAME`), and `original` where they say nothing."""
    images: Literal["separate", "frames"] = "separate"
    """What several images of one prompt are to each other: pictures of their own, or the frames
    of one video, in order. Budgets in tokens count per frame."""
    separators: Literal["follow", "keep"] = "follow"
    """Newline tokens behind the rows of a picture, where a family has them: each follows the last
    token of its row when that leaves, or all are kept, so that their number is known in advance."""
    stages: tuple[StagePlan, ...] = ()
    """The stages, in the order in which tokens meet them."""

    @model_validator(mode="after")
    def _in_order(self) -> Plan:
        ranks = [STAGES.index(stage.at) for stage in self.stages]
        if ranks != sorted(ranks):
            order = ", ".join(STAGES)
            raise ValueError(f"stages stand in the order in which tokens meet them: {order}")
        decoder = [stage for stage in self.stages if stage.at == "decoder"]
        solved = [isinstance(stage.keep, Average) for stage in decoder]
        if solved != sorted(solved):
            raise ValueError(
                "decoder stages with an average budget come after those with a fixed one"
            )
        if len({stage.keep.average for stage in decoder if isinstance(stage.keep, Average)}) > 1:
            raise ValueError("the decoder stages of a plan share one average budget")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> Plan:
        early = [stage.keep for stage in self.stages if stage.at == "pre_llm"]
        late = [stage.keep for stage in self.stages if stage.at == "decoder"]
        if any(isinstance(keep, Average) for keep in early[:-1]):
            raise ValueError(
                "of several 'pre_llm' stages only the last one can keep an average: what leaves "
                "the others doesn't reach the LLM"
            )
        solved = bool(early) and isinstance(early[-1], Average)
        if solved and any(isinstance(keep, Average | PerTile | Total) for keep in late):
            raise ValueError(
                "an average at 'pre_llm' is solved with the budgets of the decoder stages, so "
                "those are written as tokens or ratios"
            )
        return self
