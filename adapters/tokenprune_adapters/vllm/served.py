"""What every served plan has, and what is refused of a plan whatever the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tokenprune.engine.stages import built
from tokenprune.errors import BudgetError, PlanError, SignalError
from tokenprune.integrations import count
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.signals import View
from tokenprune.interface.sites import Grid, Site
from tokenprune.plan import Plan, positions_of

POSITIONS = {
    "compact": (
        "vLLM numbers the tokens of a prompt itself, one after the other, so survivors can't "
        "keep their position ids.",
        "Write positions: compact, which is what vLLM does.",
    ),
    "original": (
        "position ids of this family count time, height and width apart, so survivors keep theirs.",
        "Write positions: original.",
    ),
}
"""Why a family is served with one choice of positions only, and what to do."""


@dataclass(frozen=True)
class ServedPlan(ABC):
    """A plan on a model, by config alone.

    Attributes:
        plan: the plan.
        saved: bytes of KV cache that a token takes, per byte of the cache's numbers.
    """

    plan: Plan
    saved: int

    @abstractmethod
    def pictures(self) -> list[ServedPicture]:
        """What is left of pictures by size, the largest last.

        Raises:
            TokenpruneError: the plan can't be served for a picture of any size.
        """

    def clips(self) -> list[ServedPicture]:
        """What is left of some clips; none where the family's clips aren't served."""
        return []


def cached(config: Any) -> int:
    """Numbers that a token has in the KV cache: keys and values of all layers that have them."""
    text = config.text_config
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    layers = len(kinds) - kinds.count("linear_attention")
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * layers * heads * width)


def check_plan(plan: Plan, positions: Literal["compact", "original"]) -> None:
    """Refuse what vLLM can't do for any of its models.

    Args:
        plan: the plan.
        positions: what the family's position ids are.

    Raises:
        PlanError: position ids, or frames.
    """
    if plan.stages and positions_of(plan) != positions:
        reason, remedy = POSITIONS[positions]
        raise PlanError(reason, where="positions", remedy=remedy)
    if plan.images == "frames":
        raise PlanError(
            "vLLM gives every image to the tower by itself.",
            where="images",
            remedy="Use images: separate.",
        )


def check_signals(plan: Plan, supplies: Iterable[type[View]], site: Site, remedy: str) -> None:
    """Refuse pre-LLM stages that read what isn't there: the question, or a tower's signals.

    Args:
        plan: the plan.
        supplies: the views that there are.
        site: where pre-LLM stages stand.
        remedy: what to choose.

    Raises:
        SignalError: naming the stage and the signal.
    """
    known = frozenset(supplies)
    for stage in built(plan):
        for signal in stage.strategy.signals(site):
            # what reads the prompt can't be cached by image, and the tower runs without it
            if stage.plan.at == "pre_llm" and signal.needs not in known:
                raise SignalError(
                    f"'{stage.plan.strategy}' needs {signal}, which isn't there in vLLM.",
                    where=stage.where,
                    remedy=remedy,
                )


def check_behind(plan: Plan) -> None:
    """Refuse all but stages that choose among features, behind the tower.

    Raises:
        PlanError: a stage inside the tower.
        SignalError: a stage reads signals.
    """
    for stage in plan.stages:
        if stage.at == "encoder":
            raise PlanError(
                f"'{stage.strategy}' acts inside the tower, which isn't followed for this family.",
                where="stages",
                remedy="Use pre_llm stages that read features alone, such as divprune.",
            )
    check_signals(
        plan, (), Site.behind(0), "Choose a method that reads features, such as divprune."
    )


def left_of(grid: Grid, plan: Plan, tiles: int | None = None) -> int | None:
    """Tokens that are left of a picture; None where a budget asks for more than it has.

    Args:
        grid: units (t, h, w).
        plan: the plan.
        tiles: in how many pieces the tower sees the picture; None for one.
    """
    try:
        return count(grid, plan, tiles=tiles)
    except BudgetError:
        return None


def require_some(
    pictures: list[ServedPicture], plan: Plan, grid: Grid, tiles: int | None = None
) -> list[ServedPicture]:
    """The pictures, if a budget can be reached for one of them.

    Args:
        pictures: by size.
        plan: the plan.
        grid: of the largest.
        tiles: of the largest.

    Raises:
        BudgetError: it can be reached for none.
    """
    if all(picture.left is None for picture in pictures):
        count(grid, plan, tiles=tiles)
    return pictures
