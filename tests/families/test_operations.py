"""Operations that a plan adds to an LLM: as many as its cuts ask for, however deep the LLM is."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import tokenprune
from tests.contract.test_check_costs import counted
from tests.families.calls import case_of
from tests.families.case import Case
from tests.families.cases import LLMS
from tests.families.models.common import LAYERS
from tests.families.plans import WAYS, layers, plan, staged
from tokenprune.engine.adapters import choose_adapter
from tokenprune.interface.adapter import MllmAdapter

NEW = 2
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "activation_sparsity_pattern")
PER_LAYER += ("indexer_types", "layer_rope_theta", "swiglu_limits")
"""Settings with an entry for each layer."""
TURNED = "aten.permute.default"
"""A view of the streams of Gemma 3n's layers, which moves nothing."""
COUNTING = {"minimax_m3_vl"}
"""Families with layers that count the slots of what is left by themselves."""
OWN_INPUTS = {"gemma3n", "gemma4-shared"}
"""Families whose layers get inputs of their own: behind a cut inside, those of survivors are taken.

So only a cut in front of the LLM adds nothing to them.
"""
LOOPS = {"qwen4_exp", "minicpm_ocr", "step3p7"}
"""Families whose layers run a loop over tokens, experts, or chunks of a prompt that has several."""


def depths(case: Case) -> tuple[int, int]:
    """Layers of the shallow model and of the deep one: what may come once a call comes in both.

    The first layer behind a cut is told what is left, and the next one of every kind, with which
    later ones of its kind share that. So all kinds stand behind the cut, and behind these.
    """
    text = case.config().text_config.to_dict()
    listed = [text[name] for name in PER_LAYER if text.get(name)]
    kinds = {
        (repr(layer), *(str(entries[number]) for entries in listed))
        for number, layer in enumerate(layers(case.build()))
    }
    return (LAYERS, LAYERS + 1) if len(kinds) == 1 else (2 * LAYERS, 3 * LAYERS)


@functools.lru_cache(maxsize=2)
def deep(case: Case, depth: int) -> Any:
    """The family's tiny model with so many layers; tests of a family share it."""
    config = case.config()
    text = config.text_config.to_dict()
    starts = range(0, depth, LAYERS)
    for name in PER_LAYER:
        if text.get(name):
            text[name] = (len(starts) * text[name])[:depth]
    if isinstance(text["intermediate_size"], list):
        text["intermediate_size"] = (len(starts) * text["intermediate_size"])[:depth]
    if text.get("kv_source_layers"):  # numbers of layers
        text["kv_source_layers"] = [
            start + source for start in starts for source in text["kv_source_layers"]
        ]
    text.pop("moe_layers", None)  # of Llama 4, counted anew
    single = text.get("per_layer_config") or {}
    if single:
        text["per_layer_config"] = {
            str(int(layer) + start): change for start in starts for layer, change in single.items()
        }
    text["num_hidden_layers"] = depth
    config.text_config = type(config.text_config).from_dict(text)
    return case.made(config, torch.float32, "sdpa")


def operations(model: Any, stages: dict[str, Any], call: dict[str, Any]) -> int:
    """Operations of `generate`."""
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    # values are checked at every call, not at the first of a shape, so that one call is enough
    with tokenprune.attach(model, stages, checks="always"), torch.no_grad():
        seen = counted(lambda: model.generate(**call, **settings))
    found: int = seen.total() - seen[TURNED]
    return found


@functools.lru_cache(maxsize=2)
def dense(case: Case, depth: int, scene: str, padding: str) -> int:
    """Operations of the plain model."""
    return operations(deep(case, depth), plan(), case.inputs(scene, padding))


@pytest.mark.parametrize(
    ("name", "stages", "scene", "padding"),
    # a layer behind both cuts is called as one behind a cut inside of the LLM alone; without such a
    # cut or without padding the engine says less to it: what depends on the way, not on the family
    [
        *((name, "pre_llm" if name in OWN_INPUTS else "both", "several", "left") for name in LLMS),
        *((name, "pre_llm", "several", "left") for name in WAYS.values()),
        *((name, "both", "one", "none") for name in WAYS.values()),
    ],
)
def test_layers_add_no_operations_of_their_own(
    name: str, stages: str, scene: str, padding: str
) -> None:
    if name in LOOPS:
        pytest.skip("a shorter prompt spares operations of every layer")
    if name in COUNTING:
        pytest.skip("every layer that chooses keys numbers its slots")
    case = case_of(name, scene)
    adapter = choose_adapter(case.build())
    assert isinstance(adapter, MllmAdapter)
    if scene == "one" and (adapter.spec().masks or adapter.spec().windows):
        pytest.skip("torch reads the engine's mask layer by layer where the plain step has none")
    call, one = case.inputs(scene, padding), staged(name, stages, 0.5)
    few, many = (
        operations(deep(case, depth), one, call) - dense(case, depth, scene, padding)
        for depth in depths(case)
    )
    assert few == many
