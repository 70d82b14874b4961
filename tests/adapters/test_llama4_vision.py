"""Llama 4's tower by itself: its class token stands behind the patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.llama4_vision import (
    Llama4VisionAdapter,
    class_behind,
    class_in_front,
)
from torch import Tensor, nn

import tokenprune
from tests.families.cases import CASES
from tokenprune.errors import UnsupportedModelError
from tokenprune.testing import check_encoder_adapter


class Wrapped(nn.Module):
    """The encoder with states and rotary rows of its own, and a tensor for an output."""

    def __init__(self) -> None:
        super().__init__()
        tower = CASES["llama4"].create().vision_model
        self.encoder, self.rows = tower.model, tower.rotary_embedding.freqs_ci
        self.states = torch.randn(3, 37, 32, generator=torch.Generator().manual_seed(0))

    def forward(self) -> Tensor:
        found: Tensor = self.encoder(self.states, self.rows).last_hidden_state
        return found


@torch.no_grad()
def test_the_contract_holds() -> None:
    of = Wrapped()

    def call(encoder: Any) -> Tensor:
        found: Tensor = encoder(of.states, of.rows).last_hidden_state
        return found

    check_encoder_adapter(Llama4VisionAdapter, of.encoder, call).require()


def test_the_class_token_goes_in_front_and_back() -> None:
    states = torch.arange(6).view(1, 3, 2)
    assert class_in_front(states)[0, :, 0].tolist() == [4, 0, 2]
    assert torch.equal(class_behind(class_in_front(states)), states)


@torch.no_grad()
def test_what_is_left_stands_in_front_of_the_class_token() -> None:
    of = Wrapped()
    stages = [{"strategy": "uniform", "at": "encoder", "layer": 3, "keep": 12}]
    dense = of()
    with tokenprune.attach(of.encoder, {"schema_version": 1, "stages": stages}) as handle:
        short = of()
        (kept,) = {tuple(image.steps[-1].anchor.tolist()) for image in handle.trace.images}
    assert short.shape == (3, 13, 32)
    torch.testing.assert_close(short, dense[:, [*kept, 36]])


def test_other_blocks_are_refused() -> None:
    of = Wrapped().encoder
    of.layers[2] = nn.Identity()
    with pytest.raises(UnsupportedModelError, match="block 2"):
        Llama4VisionAdapter(of)
