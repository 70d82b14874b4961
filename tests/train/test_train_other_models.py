"""A few weights in a checkpoint tell the model that it was trained for, however it was loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models import llava_clip, shaken
from tests.train.tiny import KEEPS, ByHeart, plan, tiny
from tokenprune import attach
from tokenprune.engine.trained import COUNT, SAMPLE, sample
from tokenprune.errors import CheckpointError
from tokenprune.lab.train import Trained, TrainSettings, train
from tokenprune.plan import load_plan

SETTINGS = TrainSettings(steps=1, batch_size=2, shared=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("run")
    return train(tiny(), "vistog", plan("vistog"), out, ByHeart(2), SETTINGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_model_takes_it_in_every_dtype(trained: Trained, dtype: torch.dtype) -> None:
    attach(tiny().model.to(dtype), trained.plan).detach()


def test_other_weights_are_refused_with_both_names(trained: Trained) -> None:
    model = shaken(tiny().model, seed=7)
    with pytest.raises(CheckpointError) as caught:
        attach(model, trained.plan)
    assert "trained for the model 'tiny'" in caught.value.message
    assert type(model).__name__ in caught.value.message
    assert "other_model: true" in caught.value.remedy
    assert caught.value.where.endswith("params.checkpoint")
    assert "forward" not in model.__dict__


def test_it_may_be_wanted_all_the_same(trained: Trained) -> None:
    given = load_plan(trained.plan).model_dump(exclude_none=True)
    given["stages"][0]["params"]["other_model"] = True
    attach(shaken(tiny().model, seed=7), given).detach()


def test_another_size_is_another_model(trained: Trained) -> None:
    model: Any = tiny().model
    model.model.extra = nn.Linear(3, 3)
    with pytest.raises(CheckpointError, match="has other weights"):
        attach(model, trained.plan)


def test_weights_that_cannot_be_compared_say_nothing(trained: Trained) -> None:
    model: Any = shaken(tiny().model, seed=7)
    model.model.codes = nn.Parameter(torch.ones(4, dtype=torch.int8), requires_grad=False)
    attach(model, trained.plan).detach()


def test_the_sample_is_of_values_at_equal_distances() -> None:
    core = nn.ModuleList([nn.Linear(7, 5), nn.Linear(5, 3)])
    flat = torch.cat([value.detach().flatten() for value in core.parameters()])
    found = json.loads(sample(core))
    wanted = [float(flat[(2 * n + 1) * len(flat) // (2 * COUNT)]) for n in range(COUNT)]
    assert found == {"total": len(flat), "weights": wanted}
    assert json.loads(sample(nn.Identity())) == {"total": 0, "weights": []}


@pytest.mark.parametrize("strategy", [name for name in KEEPS if name != "quecc"])
def test_shipped_checkpoints_know_their_model(strategy: str) -> None:
    from tokenprune_strategies.shared.checkpoint import read_facts, shipped

    for path in shipped(strategy).values():
        facts = read_facts(path, strategy)
        assert facts["model"] == "reference"
        assert len(json.loads(facts[SAMPLE])["weights"]) == COUNT


def test_a_path_from_anywhere(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    attach(tiny().model, Path(trained.plan).resolve()).detach()


def test_models_differ_by_their_seed() -> None:
    assert sample(llava_clip()) != sample(shaken(llava_clip()))
