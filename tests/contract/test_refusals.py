"""What is refused when a plan is attached: with the place, the remedy and an untouched model."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import tokenprune
from tests import models
from tests.contract.cases import footprint, plan
from tokenprune.errors import (
    BudgetError,
    LayerError,
    PlanError,
    SignalError,
    TokenpruneError,
    UnknownNameError,
    UnsupportedModelError,
)

REFUSED: dict[str, tuple[dict[str, Any], type[TokenpruneError], str]] = {
    "too many tokens": (plan({"strategy": "evoprune"}, keep=99), BudgetError, "36"),
    "too few to merge": (plan({"strategy": "tome"}, keep=1), BudgetError, "nearest"),
    "half at one block": (plan({"strategy": "tome", "layer": 1}, keep=5), BudgetError, "18"),
    "no such block": (plan({"strategy": "random", "layer": 9}), LayerError, "0 to 3"),
    "too early for ipcv": (plan({"strategy": "ipcv", "layer": 1}), LayerError, "2"),
    "misspelt strategy": (plan({"strategy": "evoprun"}), UnknownNameError, "evoprune"),
    "misspelt parameter": (
        plan({"strategy": "evoprune", "params": {"neighbors": 3}}),
        UnknownNameError,
        "neighbours",
    ),
    "misspelt key": (plan({"strategy": "tome", "keeps": 3}), UnknownNameError, "keep"),
    "explicit numbers": (
        plan({"strategy": "tome", "schedule": [36, 0, 0, 0]}, keep=14),
        BudgetError,
        "",
    ),
    "stage of an MLLM": (
        {"schema_version": 1, "stages": [{"at": "pre_llm", "strategy": "fopru", "keep": 4}]},
        PlanError,
        "encoder",
    ),
    "strategy of another stage": (plan({"strategy": "fastv"}), PlanError, "decoder"),
    "an average inside the encoder": (
        plan({"strategy": "tome"}) | {"stages": [
            {"at": "encoder", "strategy": "tome", "keep": {"average": 9}}
        ]},
        PlanError,
        "average",
    ),
    "after a restoring stage": (
        {"schema_version": 1, "stages": [
            {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 20},
            {"at": "encoder", "strategy": "tome", "layers": [3, 3], "keep": 18},
        ]},
        PlanError,
        "last",
    ),
    "overlapping stages": (
        {"schema_version": 1, "stages": [
            {"at": "encoder", "strategy": "tome", "keep": 20},
            {"at": "encoder", "strategy": "evoprune", "keep": 14},
        ]},
        PlanError,
        "layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_changes(name: str) -> None:
    given, kind, said = REFUSED[name]
    model = models.clip_vision()
    model(models.pixels(1))
    before = footprint(model)
    with pytest.raises(kind) as caught:
        tokenprune.attach(model, given)
    assert said in str(caught.value)
    assert caught.value.where
    assert footprint(model) == before
    tokenprune.attach(model, {"schema_version": 1}).detach()  # nothing stayed claimed


def test_an_infeasible_budget_names_one_that_works() -> None:
    model = models.clip_vision()
    with pytest.raises(BudgetError) as caught:
        tokenprune.attach(model, plan({"strategy": "tome"}, keep=1))
    nearest = caught.value.nearest
    assert nearest is not None
    with tokenprune.attach(model, plan({"strategy": "tome"}, keep=int(nearest))):
        assert model(models.pixels(1)).last_hidden_state.shape[1] == nearest + 1
    with pytest.raises(BudgetError):
        tokenprune.attach(model, plan({"strategy": "tome"}, keep=int(nearest) - 1))


@pytest.mark.parametrize("build", [models.siglip_vision, models.siglip2_vision])
def test_a_signal_that_is_missing_names_who_has_it(build: Callable[[], nn.Module]) -> None:
    wanted = {"strategy": "evoprune", "params": {"importance": "cls"}}
    with pytest.raises(SignalError, match=r"cls_attention.*siglip.*clip, .*timm"):
        tokenprune.attach(build(), plan(wanted))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("some/checkpoint", "to 'some/checkpoint'"),
        (None, "to None"),
        (nn.Linear, "the class Linear"),
        ({"a": "config" * 100}, "to a dict"),
    ],
)
def test_what_is_no_loaded_model_is_refused(given: Any, said: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"{said}\. Load the model first"):
        tokenprune.attach(given, {"schema_version": 1})


def test_what_holds_a_model_and_what_a_model_holds_name_the_model() -> None:
    model = models.llava_clip()
    with pytest.raises(UnsupportedModelError, match=r"SimpleNamespace.*Attach to its \.model\."):
        tokenprune.attach(SimpleNamespace(model=model), {"schema_version": 1})  # type: ignore[arg-type]
    with pytest.raises(
        UnsupportedModelError, match=r"LlavaModel.*whole model: LlavaForConditionalGeneration\."
    ):
        tokenprune.attach(model.model, {"schema_version": 1})


@pytest.mark.parametrize(
    ("build", "adapter"), [(models.clip_vision, "llava"), (models.llava_clip, "qwen2_vl")]
)
def test_an_adapter_of_another_family_is_refused(
    build: Callable[[], nn.Module], adapter: str
) -> None:
    model = build()
    before = footprint(model)
    with pytest.raises(UnsupportedModelError, match=rf"'{adapter}' doesn't fit.*serves {adapter}"):
        tokenprune.attach(model, {"schema_version": 1}, adapter=adapter)
    assert footprint(model) == before


def test_a_model_that_is_no_vit_is_refused_with_what_is_supported() -> None:
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(UnsupportedModelError, match=r"Sequential.*clip.*siglip.*timm"):
        tokenprune.attach(convolutional, {"schema_version": 1})


def test_an_unknown_adapter_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="clip"):
        tokenprune.attach(models.clip_vision(), {"schema_version": 1}, adapter="clipp")


def test_a_tower_inside_an_attached_model_counts_as_attached() -> None:
    model = models.llava_clip()
    tower = model.model.vision_tower
    with tokenprune.attach(tower, plan({"strategy": "tome"}, keep=20)):
        with pytest.raises(TokenpruneError, match="already"):
            tokenprune.attach(model, {"schema_version": 1})
        assert torch.is_tensor(tower(models.pixels(1)).last_hidden_state)


def test_front_loading_is_said() -> None:
    model = models.timm_vit(depth=12)
    early = plan({"strategy": "tome", "schedule": "first"}, keep=2)
    with tokenprune.attach(model, early) as handle:
        assert any("tome" in note for note in handle.notes)
        assert all(note in str(handle.report()) for note in handle.notes)
