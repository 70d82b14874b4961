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
from tests.families.cases import CASES
from tests.families.models.common import LAYERS
from tests.families.plans import plan, staged
from tokenprune.engine.adapters import choose_adapter
from tokenprune.interface.adapter import MllmAdapter

NEW = 3
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "activation_sparsity_pattern")
PER_LAYER += ("indexer_types", "layer_rope_theta", "swiglu_limits")
"""Settings with an entry for each layer."""
TURNED = "aten.permute.default"
"""A view of the streams of Gemma 3n's layers, which moves nothing."""
COUNTING = {"minimax_m3_vl"}
"""Families with layers that count the slots of what is left by themselves."""
OWN_INPUTS = {"gemma3n", "gemma4-shared"}
"""Families whose layers get inputs of their own, of which those of survivors are taken."""
LOOPS = {"qwen4_exp", "minicpm_ocr", "step3p7"}
"""Families whose layers run a loop over tokens, experts, or chunks of a prompt that has several."""


@functools.lru_cache(maxsize=2)
def deep(case: Case, times: int) -> Any:
    """The family's tiny model with its layers so many times over; tests of a family share it."""
    config = case.config()
    text = config.text_config.to_dict()
    for name in PER_LAYER:
        if text.get(name):
            text[name] = times * text[name]
    if isinstance(text["intermediate_size"], list):
        text["intermediate_size"] = times * text["intermediate_size"]
    if text.get("kv_source_layers"):  # numbers of layers
        starts = range(0, times * LAYERS, LAYERS)
        text["kv_source_layers"] = [
            start + source for start in starts for source in text["kv_source_layers"]
        ]
    text.pop("moe_layers", None)  # of Llama 4, counted anew
    single = text.get("per_layer_config") or {}
    if single:
        text["per_layer_config"] = {
            str(int(layer) + start): change
            for start in range(0, times * LAYERS, LAYERS)
            for layer, change in single.items()
        }
    text["num_hidden_layers"] = times * LAYERS
    config.text_config = type(config.text_config).from_dict(text)
    return case.made(config, torch.float32, "sdpa")


def operations(model: Any, stages: dict[str, Any], call: dict[str, Any]) -> int:
    """Operations of `generate`."""
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    with tokenprune.attach(model, stages), torch.no_grad():
        model.generate(**call, **settings)  # checks of values run at the first call of a shape
        seen = counted(lambda: model.generate(**call, **settings))
    found: int = seen.total() - seen[TURNED]
    return found


@functools.lru_cache(maxsize=4)
def dense(case: Case, times: int, scene: str, padding: str) -> int:
    """Operations of the plain model."""
    return operations(deep(case, times), plan(), case.inputs(scene, padding))


@pytest.mark.parametrize(("scene", "padding"), [("one", "none"), ("several", "left")])
@pytest.mark.parametrize("stages", ["pre_llm", "decoder", "both"])
@pytest.mark.parametrize("name", CASES)
def test_layers_add_no_operations_of_their_own(
    name: str, stages: str, scene: str, padding: str
) -> None:
    if name in OWN_INPUTS and stages != "pre_llm":
        pytest.skip("every layer behind a cut has inputs of its own to be cut")
    if name in LOOPS:
        pytest.skip("a shorter prompt spares operations of every layer")
    if name in COUNTING:
        pytest.skip("every layer that chooses keys numbers its slots")
    case = case_of(name, scene)
    call, one = case.inputs(scene, padding), staged(name, stages, 0.5)
    adapter = choose_adapter(deep(case, 2))
    assert isinstance(adapter, MllmAdapter)
    if scene == "one" and (adapter.spec().masks or adapter.spec().windows):
        pytest.skip("torch reads the engine's mask layer by layer where the plain step has none")
    # every kind of layer stands behind the cut in both
    few, many = (
        operations(deep(case, times), one, call) - dense(case, times, scene, padding)
        for times in (2, 3)
    )
    assert few == many
