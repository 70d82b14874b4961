"""The matrix of the contract tests: strategies x encoders, and what every pair runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import tokenprune
from tests import models, text_towers, towers
from tokenprune.interface import placement as placing
from tokenprune.interface.sites import Stage
from tokenprune.interface.strategy import PruningStrategy, placement, places
from tokenprune.interface.trainable import ModelShape, untrained_params
from tokenprune.plugins.host import host

KEEP = 14
#: What is kept outside of encoders: a quarter of the grid, which a 2 x 2 stride leaves too.
LATER_KEEP = models.PATCHES // 4
SHAPE = ModelShape(
    encoder_width=models.WIDTH,
    encoder_blocks=models.DEPTH - 1,
    grid=(1, models.SIDE, models.SIDE),
    llm_width=models.WIDTH,
    llm_layers=models.DEPTH,
)

ENCODER_STAGES: dict[str, dict[str, Any]] = {
    "evoprune": {"strategy": "evoprune"},
    "evoprune-keys": {"strategy": "evoprune", "params": {"metric": "keys", "partition": "all"}},
    "evoprune-bare": {"strategy": "evoprune", "params": {"proportional_attention": False}},
    "tome": {"strategy": "tome"},
    "tome-bare": {"strategy": "tome", "params": {"proportional_attention": False}},
    "fopru": {"strategy": "fopru"},
    "ipcv": {"strategy": "ipcv", "layer": 2, "params": {"stabilise": 1}},
    "random": {"strategy": "random"},
    "uniform": {"strategy": "uniform"},
}
MERGING = ("evoprune", "evoprune-keys", "evoprune-bare", "tome", "tome-bare")


@dataclass(frozen=True)
class Encoder:
    """An encoder of the matrix: how to build it, call it and read its token states."""

    build: Callable[..., Any]
    inputs: Callable[[int], dict[str, Tensor]]
    eager: bool = True

    def run(self, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every tensor that the plain model's user can see."""
        with torch.inference_mode():
            if "pixel_values" not in inputs:
                return {"logits": model(inputs["x"]), "tokens": model.forward_features(inputs["x"])}
            vision = getattr(model, "get_image_features", None)
            output = vision(**inputs) if vision is not None else model(**inputs)
        return {name: value for name, value in output.items() if isinstance(value, Tensor)}


def _pixels(batch: int) -> dict[str, Tensor]:
    return {"pixel_values": models.pixels(batch)}


def _x(batch: int) -> dict[str, Tensor]:
    return {"x": models.pixels(batch)}


ENCODERS: dict[str, Encoder] = {
    "clip-vision": Encoder(models.clip_vision, _pixels),
    "clip-projected": Encoder(partial(models.clip_vision, projected=True), _pixels),
    "clip": Encoder(models.clip, _pixels),
    "siglip-vision": Encoder(models.siglip_vision, _pixels),
    "siglip": Encoder(models.siglip, _pixels),
    "siglip2-vision": Encoder(models.siglip2_vision, models.siglip2_inputs),
    "internvl": Encoder(towers.internvl, _pixels),
    "idefics3": Encoder(towers.idefics3, towers.idefics3_inputs),
    "dinov2-registers": Encoder(partial(towers.dinov2, registers=3), _pixels),
    "dinov2-classifier": Encoder(partial(towers.dinov2, classifier=True), _pixels),
    "dinov3": Encoder(towers.dinov3, _pixels),
    "timm-vit": Encoder(models.timm_vit, _x, eager=False),
    "timm-average": Encoder(
        partial(models.timm_vit, global_pool="avg", class_token=False), _x, eager=False
    ),
    "timm-map": Encoder(
        partial(models.timm_vit, global_pool="map", class_token=False), _x, eager=False
    ),
    "timm-registers": Encoder(
        partial(models.timm_vit, reg_tokens=4, init_values=0.1, qk_norm=True), _x, eager=False
    ),
    "timm-eva": Encoder(towers.timm_eva, _x, eager=False),
    "timm-distilled": Encoder(models.timm_distilled, _x, eager=False),
}


def stage_of(kind: type[PruningStrategy[Any]], at: Stage) -> dict[str, Any]:
    """A stage of any strategy with its defaults, or untrained, that fits the tiny models."""
    keep = KEEP if at == "encoder" else LATER_KEEP
    stage: dict[str, Any] = {"at": at, "strategy": kind.name, "keep": keep}
    if kind.length == "own":
        del stage["keep"]
    own = placement(kind, at)
    one_block = isinstance(own, placing.Encoder) and own.default_schedule is None
    if one_block or (isinstance(own, placing.Decoder) and not own.every_layer):
        stage["layer"] = 2
    params = untrained_params(kind, SHAPE, keep)
    if "text_tower" in kind.Params.model_fields:
        params |= text_towers.named()
    return stage | ({"params": params} if params else {})


def shipped() -> dict[str, type[PruningStrategy[Any]]]:
    """The strategies of this project, without those of plugins that happen to be installed."""
    return {
        name: kind
        for name, kind in sorted(host().strategies.items())
        if kind.__module__.startswith("tokenprune_strategies")
    }


# strategies that come later need not be written down above
for _name, _kind in shipped().items():
    if "encoder" in places(_kind) and _name not in ENCODER_STAGES:
        _stage = stage_of(_kind, "encoder")
        ENCODER_STAGES[_name] = {k: v for k, v in _stage.items() if k not in ("at", "keep")}

MATRIX = [(strategy, name) for strategy in ENCODER_STAGES for name in ENCODERS]


def plan(stage: dict[str, Any], keep: float = KEEP, **more: Any) -> dict[str, Any]:
    """A plan of one encoder stage."""
    return {"schema_version": 1, "stages": [{"at": "encoder", "keep": keep, **stage}], **more}


def attached(model: nn.Module, stage: dict[str, Any], **more: Any) -> tokenprune.Attachment:
    """The model with a plan of one encoder stage."""
    return tokenprune.attach(model, plan(stage, **more))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two outputs are bit-identical."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def footprint(model: nn.Module) -> dict[str, Any]:
    """Everything on a model that an attachment could leave something in."""
    found = {}
    for name, module in model.named_modules():
        hooks = sum(len(getattr(module, kind)) for kind in vars(module) if kind.endswith("_hooks"))
        found[name] = (frozenset(vars(module)), hooks, frozenset(module._buffers))
    return found
