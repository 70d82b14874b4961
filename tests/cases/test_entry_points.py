"""Every way to run an attached encoder prunes, or is refused by name; none runs dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.mllm.plans import plan, tome
from tokenprune.errors import UnsupportedCallError

pytest.importorskip("timm", reason="timm is no dependency")

TOME = plan(tome())
X = models.pixels()
POOLINGS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean": {"global_pool": "avg", "class_token": False},
    "mean and maximum": {"global_pool": "avgmax", "class_token": False},
    "attention": {"global_pool": "map", "class_token": False},
}


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("pooling", POOLINGS)
def test_features_and_head_are_forward(pooling: str) -> None:
    model = models.timm_vit(**POOLINGS[pooling])
    dense = model(X)
    with tokenprune.attach(model, TOME) as handle:
        whole = model(X)
        kept = handle.trace.images[0].steps[-1].anchor
        features = model.forward_features(X)
        assert features.shape[1] == 18 + model.num_prefix_tokens
        assert torch.equal(handle.trace.images[0].steps[-1].anchor, kept)
        assert handle.meter.calls == 2
        assert handle.report().tokens["encoder"] == 18
        for _ in range(2):
            torch.testing.assert_close(model.forward_head(features), whole)
        pooled = model.fc_norm(model.pool(features))
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled)
    assert not torch.allclose(whole, dense)
    assert torch.equal(model.forward_head(model.forward_features(X)), dense)


def test_a_mean_of_tokens_of_unknown_size_is_refused() -> None:
    model = models.timm_vit(**POOLINGS["mean"])
    dense = model.forward_features(X)
    expected = model.forward_head(dense)
    with tokenprune.attach(model, TOME):
        features = model.forward_features(X)
        with pytest.raises(UnsupportedCallError, match=r"these 18 tokens can't be weighted"):
            model.forward_head(features + 0)
        assert torch.equal(model.forward_head(dense), expected)


WITHOUT_PLACE: dict[str, Callable[[Any], Any]] = {
    "forward_intermediates": lambda vit: vit.forward_intermediates(X, indices=1),
    "get_intermediate_layers": lambda vit: vit.get_intermediate_layers(X, n=1),
}


@pytest.mark.parametrize("name", WITHOUT_PLACE)
def test_what_has_no_place_for_removed_tokens_is_refused_by_name(name: str) -> None:
    model = models.timm_vit()
    WITHOUT_PLACE[name](model)
    with (
        tokenprune.attach(model, TOME),
        pytest.raises(UnsupportedCallError, match=rf"'{name}' has no place.*forward_features"),
    ):
        WITHOUT_PLACE[name](model)
    with tokenprune.attach(model, plan()):  # measures only
        WITHOUT_PLACE[name](model)
    WITHOUT_PLACE[name](model)


def test_what_others_build_around_an_attached_model_is_refused_or_pruned() -> None:
    from timm.models._features import FeatureGetterNet
    from transformers import TimmWrapperConfig, TimmWrapperModel

    model = models.timm_vit()
    pyramid = FeatureGetterNet(model, out_indices=[0, 1])
    config = TimmWrapperConfig(architecture="vit_tiny_patch16_224", do_pooling=False)
    wrapper = TimmWrapperModel(config).eval()
    pictures = torch.randn(1, 3, 224, 224)
    with tokenprune.attach(model, TOME), pytest.raises(UnsupportedCallError, match="no place"):
        pyramid(X)
    with tokenprune.attach(wrapper.timm_model, plan(tome(49))):
        assert wrapper(pictures).last_hidden_state.shape[1] == 50
        with pytest.raises(UnsupportedCallError, match="'forward_intermediates' has no place"):
            wrapper(pictures, output_hidden_states=True)


@pytest.mark.parametrize("family", ["timm_vit", "clip_vision"])
def test_blocks_that_are_run_one_by_one_are_refused(family: str) -> None:
    model = getattr(models, family)()
    blocks = model.blocks if family == "timm_vit" else model.encoder.layers
    hidden = torch.randn(1, 37, models.WIDTH)
    arguments: tuple[Tensor | None, ...] = (hidden,) if family == "timm_vit" else (hidden, None)
    blocks[0](*arguments)
    with (
        tokenprune.attach(model, TOME),
        pytest.raises(UnsupportedCallError, match="block 0 was called outside of its encoder"),
    ):
        blocks[0](*arguments)
