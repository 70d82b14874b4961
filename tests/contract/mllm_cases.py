"""Plans of the contract tests of multimodal LLMs: every strategy at every stage, and composed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tests import models
from tests.contract.cases import KEEP, LATER_KEEP, shipped, stage_of
from tokenprune.interface.sites import Stage
from tokenprune.interface.strategy import PruningStrategy, placement, places
from tokenprune.plugins.host import host
from tokenprune.plugins.matrix import families, fit

IMG = models.IMAGE_TOKEN
PROMPTS = [[1, IMG, 7, 8, 9, 10], [1, IMG, 11, IMG, 12], [1, 13, IMG, 14, 15], [1, IMG, 16]]
RECEIVED = {"score": "received"}  # SigLIP has no class token
VSCAN = {**RECEIVED, "window": 2}
MAKING = ("vistog", "quecc")
VISTOG = {"init_seed": 0, "dim": models.WIDTH, "groups": 9}

STAGES: dict[str, list[dict[str, Any]]] = {
    **{
        f"{name}-encoder": [{"at": "encoder", "strategy": name, "keep": 14}]
        for name in ("evoprune", "tome", "random", "uniform", "fopru")
    },
    "ipcv-encoder": [{"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 14}],
    **{
        f"{name}-pre_llm": [{"at": "pre_llm", "strategy": name, "keep": 9}]
        for name in ("fopru", "random", "uniform")
    },
    "vistog-pre_llm": [{"at": "pre_llm", "strategy": "vistog", "keep": 9, "params": VISTOG}],
    **{
        f"{name}-decoder": [{"at": "decoder", "strategy": name, "layer": 2, "keep": 9}]
        for name in ("fastv", "random", "uniform")
    },
    **{
        f"{name}-received": [{"at": "pre_llm", "strategy": name, "keep": 9, "params": RECEIVED}]
        for name in ("fastervlm", "vispruner", "visionzip", "scope", "holov")
    },
    "visionzip-paper": [
        {
            "at": "pre_llm",
            "strategy": "visionzip",
            "keep": 9,
            "params": {**RECEIVED, "order": "paper"},
        }
    ],
    "vscan-pre_llm": [{"at": "pre_llm", "strategy": "vscan", "keep": 9, "params": VSCAN}],
    "vscan-decoder": [{"at": "decoder", "strategy": "vscan", "keep": 9}],
    "dart-states": [
        {
            "at": "decoder",
            "strategy": "dart",
            "layer": 0,
            "keep": 9,
            "params": {"measure": "states", "text_pivots": 2},
        }
    ],
    "sparsevlm-steps": [{"at": "decoder", "strategy": "sparsevlm", "keep": 6}],
    "pyramiddrop-steps": [{"at": "decoder", "strategy": "pyramiddrop", "keep": 3}],
    "vscan-both": [
        {"at": "pre_llm", "strategy": "vscan", "keep": {"average": 10}, "params": VSCAN},
        {"at": "decoder", "strategy": "vscan", "keep": 6, "params": {"rope_in_scoring": False}},
    ],
    "evoprune+vscan": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20},
        {"at": "pre_llm", "strategy": "fopru", "keep": 16},
        {"at": "pre_llm", "strategy": "vscan", "keep": 9, "params": VSCAN},
        {"at": "decoder", "strategy": "vscan", "keep": 4},
    ],
    "evoprune+vscan+dyvte": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20},
        {"at": "decoder", "strategy": "vscan", "layer": 1, "keep": 9},
        {**stage_of(shipped()["dyvte"], "decoder"), "layers": [2, 3]},
    ],
    "evoprune+fastv": [
        {"at": "encoder", "strategy": "evoprune", "keep": 14},
        {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.5},
    ],
    "evoprune+fopru+fastv": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20},
        {"at": "pre_llm", "strategy": "fopru", "keep": 0.5},
        {"at": "decoder", "strategy": "fastv", "layer": 1, "keep": 4},
    ],
    "ipcv+fopru+fastv": [
        {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 14},
        {"at": "pre_llm", "strategy": "fopru", "keep": 20},
        {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 5},
    ],
    "evoprune+vistog": [
        {"at": "encoder", "strategy": "evoprune", "keep": 20},
        {"at": "pre_llm", "strategy": "vistog", "keep": 9, "params": VISTOG},
    ],
}
LEFT: dict[str, tuple[int, int]] = {  # tokens per image: into the LLM, and after its last layer
    "evoprune-encoder": (14, 14), "tome-encoder": (14, 14), "random-encoder": (14, 14),
    "uniform-encoder": (14, 14), "fopru-encoder": (14, 14), "ipcv-encoder": (36, 36),
    "fopru-pre_llm": (9, 9), "random-pre_llm": (9, 9), "uniform-pre_llm": (9, 9),
    "vistog-pre_llm": (9, 9), "fastv-decoder": (36, 9), "random-decoder": (36, 9),
    "uniform-decoder": (36, 9), "evoprune+fastv": (14, 7), "evoprune+fopru+fastv": (10, 4),
    "ipcv+fopru+fastv": (20, 5), "evoprune+vistog": (9, 9), "vscan-pre_llm": (9, 9),
    "vscan-decoder": (36, 9), "vscan-both": (14, 6), "evoprune+vscan": (9, 4),
    "evoprune+vscan+dyvte": (20, 9), "fastervlm-received": (9, 9),
    "vispruner-received": (9, 9), "visionzip-received": (9, 9), "visionzip-paper": (9, 9),
    "scope-received": (9, 9), "holov-received": (9, 9),
    "pyramiddrop-steps": (36, 3), "dart-states": (36, 9),
    "sparsevlm-steps": (36, 6),
}  # fmt: skip
TOWERS: dict[str, Callable[[], Any]] = {  # shared: tests leave the models as they were
    "clip": cache(models.llava_clip),
    "siglip": cache(models.llava_siglip),
}


def exact(name: str) -> bool:
    """Whether all stages leave what the plan says, and not at most so much."""
    kinds = [host().strategies[stage["strategy"]] for stage in STAGES[name]]
    return all(kind.length == "planned" for kind in kinds)


def keeps_all(stage: dict[str, Any]) -> bool:
    """Whether a ratio of one leaves the tokens as they are: not if new ones are made of them."""
    kind = host().strategies[stage["strategy"]]
    return kind.name not in MAKING and kind.length != "own"


def _left(kind: type[PruningStrategy[Any]], at: Stage) -> tuple[int, int]:
    if at == "encoder":
        left = models.PATCHES if placement(kind, at).restores else KEEP
        return left, left
    return (LATER_KEEP if at == "pre_llm" else models.PATCHES, LATER_KEEP)


def _missing() -> dict[str, tuple[list[dict[str, Any]], tuple[int, int]]]:
    """Every shipped strategy at every stage that isn't written down above."""
    found = {}
    for name, kind in shipped().items():
        for at in places(kind):
            if f"{name}-{at}" not in STAGES:
                stage, left = stage_of(kind, at), _left(kind, at)
                most = models.PATCHES
                found[f"{name}-{at}"] = [stage], (most, most) if kind.length == "own" else left
    return found


def _runs(tower: str, name: str) -> bool:
    """Whether the matrix says that a plan of one stage can be attached; others are written down."""
    (stage, *more) = STAGES[name]
    # parameters may choose other signals; the name of a text tower doesn't
    if more or {*stage.get("params", ())} - {"text_tower", "tokenizer"}:
        return True
    family = next(f for f in families() if f.name == f"llava + {tower}")
    return stage["at"] in fit(host().strategies[stage["strategy"]], family).runs


for _name, (_stages, _counts) in _missing().items():
    STAGES[_name], LEFT[_name] = _stages, _counts

PAIRS = [(tower, name) for tower in TOWERS for name in STAGES if _runs(tower, name)]
