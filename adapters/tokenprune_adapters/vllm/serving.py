"""A plan on a checkpoint that vLLM is to serve: what would be refused, and the counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenprune.engine.stages import built
from tokenprune.errors import PlanError, SignalError, UnsupportedModelError
from tokenprune.integrations import count
from tokenprune.interface.sites import Grid, Site
from tokenprune.plan import Plan, load_plan, numbering
from tokenprune_adapters.vllm.names import PLAN
from tokenprune_adapters.vllm.towers import VllmClipAdapter, VllmSiglipAdapter, VllmVitAdapter

#: Towers by the type of their config, and the choice of features that leaves the patches alone.
TOWERS: Mapping[str, tuple[type[VllmVitAdapter], str]] = {
    "clip_vision_model": (VllmClipAdapter, "default"),
    "siglip_vision_model": (VllmSiglipAdapter, "full"),
}


@dataclass(frozen=True)
class ServedPlan:
    """A plan on a model's vision tower, by config alone.

    Attributes:
        plan: the plan.
        tower: the adapter of vLLM's tower.
        grid: patch grid (t, h, w) of every picture.
        used: blocks of the tower that feed the features.
        pixels: side of the pictures that the tower sees.
        saved: bytes of KV cache that a picture's removed tokens would have taken, per byte of the
            cache's numbers.
    """

    plan: Plan
    tower: type[VllmVitAdapter]
    grid: Grid
    used: int
    pixels: int
    saved: int

    @property
    def dense(self) -> int:
        """Tokens of a picture without the plan."""
        return self.grid[1] * self.grid[2]

    @property
    def places(self) -> int:
        """Tokens of a picture with the plan."""
        return count(self.grid, self.plan, used=self.used)


def served_plan(config: Any, plan: Any = None) -> ServedPlan:
    """The plan of a config, checked.

    Args:
        config: of a LLaVA, as transformers reads it.
        plan: a plan, a file or a mapping; by default what `--hf-overrides` put into the config.

    Raises:
        PlanError: there is no plan, or one that vLLM can't serve, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
        UnsupportedModelError: a tower or a choice of features that isn't served.
    """
    given = getattr(config, PLAN, None) if plan is None else plan
    if given is None:
        raise PlanError(
            "there is no plan.",
            where=f"--hf-overrides, {PLAN}",
            remedy="Print the option with: tokenprune vllm args PLAN MODEL.",
        )
    loaded = load_plan(given)
    adapter = _tower(config)
    vision, used = config.vision_config, _used(config)
    side = vision.image_size // vision.patch_size
    _check(loaded, adapter, used)
    found = ServedPlan(loaded, adapter, (1, side, side), used, vision.image_size, _cached(config))
    assert found.places <= found.dense
    return found


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


def _check(plan: Plan, adapter: type[VllmVitAdapter], used: int) -> None:
    if numbering(plan).first.positions != "compact":
        raise PlanError(
            "vLLM numbers the tokens of a prompt itself, one after the other, so survivors can't "
            "keep their position ids.",
            where="positions",
            remedy="Write positions: compact, which is what vLLM does.",
        )
    if plan.images == "frames":
        raise PlanError(
            "vLLM gives every image to the tower by itself.",
            where="images",
            remedy="Use images: separate.",
        )
    for stage in built(plan):
        for signal in stage.strategy.signals(Site("pre_llm", used, used)):
            # what reads the prompt can't be cached by image, and the tower runs without it
            if stage.plan.at == "pre_llm" and signal.needs not in adapter.supplies:
                raise SignalError(
                    f"'{stage.plan.strategy}' needs {signal}, which the tower alone doesn't have.",
                    where=stage.where,
                    remedy="Choose a strategy that reads features, or signals of this tower.",
                )


def _cached(config: Any) -> int:
    """Numbers that a token has in the KV cache: keys and values of all layers."""
    text = config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * width)
