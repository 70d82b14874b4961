"""The strategy on the page about training keeps the contract, learns, and is read again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import tokenprune
from tests.docs.blocks import of
from tests.models import llava_clip
from tests.train.tiny import ByHeart, tiny
from tokenprune.errors import CheckpointError
from tokenprune.lab.train import TrainSettings, train
from tokenprune.plan import load_plan
from tokenprune.plugins.host import register_plugin
from tokenprune.testing import check_strategy


@pytest.fixture
def blend() -> Any:
    """The class on the page, registered as the page on strategies says."""
    module = ModuleType("page_on_training")
    (block,) = (one for one in of("python") if one.page == "docs/training.md")
    exec(compile(block.code, block.page, "exec", dont_inherit=True), vars(module))
    module.register_strategies = tokenprune.hookimpl(  # type: ignore[attr-defined]
        lambda register: register(module.Blend), specname="register_strategies"
    )
    with register_plugin(module, "page"):
        yield module.Blend


def test_the_strategy_keeps_the_contract(blend: Any) -> None:
    check_strategy(blend, inside=False).require()


def test_the_strategy_learns_and_its_plan_is_for_its_model(blend: Any, tmp_path: Path) -> None:
    plan = load_plan({"stages": [{"at": "pre_llm", "strategy": "blend", "keep": 4}]})
    settings = TrainSettings(steps=20, batch_size=4, shared=2, lr=0.1, warmup=0.0)
    torch.manual_seed(0)
    model = llava_clip()
    done = train(tiny(model), "blend", plan, tmp_path / "run", ByHeart(), settings)
    losses = [entry["loss"] for entry in done.data["curve"]]
    assert losses[-1] < losses[0]
    with tokenprune.attach(model, tmp_path / "run" / "plan.yaml") as handle:
        assert handle.plan.stages[0].keep == 4
    torch.manual_seed(1)
    other = llava_clip()
    for parameter in other.parameters():
        parameter.data.normal_()
    with pytest.raises(CheckpointError, match="trained for the model 'tiny'") as error:
        tokenprune.attach(other, tmp_path / "run" / "plan.yaml")
    assert "other_model" not in error.value.remedy  # the page's strategy has no such parameter
