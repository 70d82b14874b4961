"""Plans on LLaVA, whose pictures have one size: stages inside the tower and behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenprune.errors import UnsupportedModelError
from tokenprune.integrations import count
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.sites import Grid, Site
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.served import ServedPlan, cached, check_plan, check_signals
from tokenprune_adapters.vllm.towers import VllmClipAdapter, VllmSiglipAdapter, VllmVitAdapter

#: Towers by the type of their config, and the choice of features that leaves the patches alone.
TOWERS: Mapping[str, tuple[type[VllmVitAdapter], str]] = {
    "clip_vision_model": (VllmClipAdapter, "default"),
    "siglip_vision_model": (VllmSiglipAdapter, "full"),
}


@dataclass(frozen=True)
class ServedOneSize(ServedPlan):
    """A plan on a model whose tower sees every picture at one size.

    Attributes:
        tower: the adapter of vLLM's tower.
        grid: patch grid (t, h, w) of every picture.
        used: blocks of the tower that feed the features.
        pixels: side of the pictures that the tower sees.
    """

    tower: type[VllmVitAdapter]
    grid: Grid
    used: int
    pixels: int

    @property
    def dense(self) -> int:
        """Tokens of a picture without the plan."""
        return self.grid[1] * self.grid[2]

    @property
    def places(self) -> int:
        """Tokens of a picture with the plan."""
        return count(self.grid, self.plan, used=self.used)

    def pictures(self) -> list[ServedPicture]:
        """The one picture."""
        return [ServedPicture(f"{self.pixels} x {self.pixels}", self.dense, self.places)]


def one_size(config: Any, plan: Plan) -> ServedOneSize:
    """The plan on a LLaVA, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
        UnsupportedModelError: a tower or a choice of features that isn't served.
    """
    adapter, used, vision = _tower(config), _used(config), config.vision_config
    check_plan(plan, "compact")
    check_signals(
        plan,
        adapter.supplies,
        Site.behind(used),
        "Choose a strategy that reads features, or signals of this tower.",
    )
    side = vision.image_size // vision.patch_size
    return ServedOneSize(plan, cached(config), adapter, (1, side, side), used, vision.image_size)


def _tower(config: Any) -> type[VllmVitAdapter]:
    kind = config.vision_config.model_type
    if kind not in TOWERS:
        raise UnsupportedModelError(
            f"a tower of type '{kind}' isn't served.",
            where="config.vision_config",
            remedy=f"Served are {', '.join(TOWERS)}.",
        )
    adapter, strategy = TOWERS[kind]
    if config.vision_feature_select_strategy != strategy:
        raise UnsupportedModelError(
            f"'{config.vision_feature_select_strategy}' features of a {kind} aren't its patches.",
            where="config.vision_feature_select_strategy",
            remedy=f"Served is '{strategy}' for this tower.",
        )
    return adapter


def _used(config: Any) -> int:
    layer, depth = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int):
        raise UnsupportedModelError(
            "features of several layers can't follow pruned tokens.",
            where="config.vision_feature_layer",
            remedy="Serve a model with one feature layer.",
        )
    return depth + 1 + layer if layer < 0 else layer
