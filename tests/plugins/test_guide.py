"""The code on the pages "Writing a strategy" and "Writing an adapter" runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenprune
from tests import models
from tests.plugin import registering
from tests.plugins.newcomers_model import MyVit
from tokenprune.plugins.host import register_plugin

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "writing-a-strategy.md"


class Module:
    """The page's classes and hook, as a module would hold them."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.__dict__.update(names)


def code(page: Path) -> list[str]:
    """The blocks of Python on a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    blocks = code(PAGE)
    found: dict[str, Any] = {
        "__name__": "page",
        **{k: getattr(tokenprune, k) for k in tokenprune.__all__},
    }
    whole = [block for block in blocks if not block.startswith("    ")]
    for block in whole[:-1]:  # the last one uses the plugin and is tried below
        exec(block, found)
    assert "register_plugin" in whole[-1]
    return found


def tokens() -> tokenprune.Tokens:
    torch.manual_seed(0)
    index = torch.arange(12).expand(2, -1)
    return tokenprune.Tokens(
        hidden=torch.randn(2, 12, 6),
        size=torch.ones(2, 12),
        index=index,
        grid=(1, 3, 4),
        site=tokenprune.Site("encoder", 2, 6),
    )


def test_the_score_strategy(names: dict[str, Any]) -> None:
    reduction = names["FeatureNorm"].from_params(order=1).reduce(tokens(), tokenprune.Budget(12, 5))
    best = tokens().hidden.abs().sum(-1).topk(5).indices.sort().values
    assert torch.equal(reduction.anchor, best)


def test_the_merging_strategy(names: dict[str, Any]) -> None:
    given = tokens()
    for keep in (12, 5, 1):
        reduction = (
            names["FarthestFromMean"].from_params().reduce(given, tokenprune.Budget(12, keep))
        )
        merged, sizes = reduction.apply(given.hidden, given.size), reduction.sizes(given.size)
        assert merged.shape == (2, keep, 6)
        torch.testing.assert_close((merged * sizes[..., None]).sum(1), given.hidden.sum(1))


def test_the_signal_of_its_own(names: dict[str, Any]) -> None:
    own, model, pictures = names["StrongestHead"], models.clip_vision(), models.pixels(1)
    stage = {"at": "encoder", "strategy": own.name, "layer": 2, "keep": 9}
    with (
        register_plugin(registering(own), "own"),
        tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}) as handle,
    ):
        assert model(pictures).last_hidden_state.shape[1] == 10
        score = handle.trace.images[0].steps[0].score
    assert score.shape == (36,)
    assert (score > 0).all()
    assert score.max() > 1 / 37, "the strongest head gives some token more than its share"


def test_registering_without_installing(names: dict[str, Any]) -> None:
    with register_plugin(Module({"register_strategies": names["register_strategies"]}), "mine"):
        stage = {"at": "pre_llm", "strategy": "feature_norm", "keep": 64}
        assert tokenprune.load_plan({"stages": [stage]}).stages[0].strategy == "feature_norm"


def test_the_adapter_serves_a_model_of_its_class() -> None:
    found: dict[str, Any] = {"__name__": "page"}
    for block in code(DOCS / "writing-an-adapter.md"):
        exec(block, found)
    assert found["DeepseekVlAdapter"].family.pictures["image"].method == "get_image_features"
    torch.manual_seed(0)
    model = type("MyVit", (MyVit,), {"__module__": "my_package.modeling"})().eval()
    pixels = torch.randn(2, 3, 24, 24)
    plain = model(pixels)
    stages = [{"at": "encoder", "strategy": "evoprune", "keep": 5}]
    with register_plugin(Module({"register_adapters": found["register_adapters"]}), "my-models"):
        with tokenprune.attach(model, {"stages": []}):
            assert torch.equal(model(pixels), plain)
        with tokenprune.attach(model, {"stages": stages}):
            assert model(pixels).shape == (2, 1 + 5, 16)
        assert torch.equal(model(pixels), plain)
