"""`integrations.tiled_encoder`: what an engine's tower leaves of tiles is what the LLM gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families.calls import case_of, language, logits
from tests.families.models.common import IMAGE
from tests.families.plans import plan
from tests.families.scenes import Image, Text
from tests.packed import tower
from tokenprune import attach
from tokenprune.errors import (
    AlreadyAttachedError,
    BudgetError,
    PlanError,
    SignalError,
    UnsupportedCallError,
    UnsupportedModelError,
)
from tokenprune.integrations import count_tiled, tiled_encoder

INSIDE = {"at": "encoder", "strategy": "tome", "keep": 0.6}
DROPS = {"at": "encoder", "strategy": "random", "layer": 2, "keep": 6}
BEHIND = {"at": "pre_llm", "strategy": "fopru", "keep": 0.5, "params": {"direction": "received"}}
TILE = {"at": "pre_llm", "strategy": "divprune", "keep": {"per_tile": 3}}
PLANS = {
    "dense": (),
    "merged inside": (INSIDE,),
    "dropped inside, then by the piece": (DROPS, TILE),
    "dropped behind": (BEHIND,),
    "both": (INSIDE, BEHIND),
    "restored, then dropped": (
        {"at": "encoder", "strategy": "ipcv", "keep": 0.5, "layer": 2},
        BEHIND,
    ),
    "classes": ({"at": "pre_llm", "strategy": "visionzip", "keep": 5},),
}
LEARNED = {
    "at": "pre_llm",
    "strategy": "vistog",
    "keep": 3,
    "params": {"init_seed": 0, "dim": 32},
}
PICTURES = [Image(48, 48, 1), Image(48, 96, 2), Image(96, 96, 3)]
TILES = [1, 3, 5]
UNITS = 9


def prompt() -> dict[str, Tensor]:
    """One prompt of pictures of several tiles."""
    parts = [part for number, one in enumerate(PICTURES) for part in (Text(2, 10 + number), one)]
    inputs: dict[str, Tensor] = case_of("internvl").call(
        [(*parts, Text(3, 60))], "none", torch.float32
    )
    return inputs


def given_to_the_llm(model: Any, inputs: dict[str, Tensor], stages: tuple[Any, ...]) -> list[Any]:
    """The tokens `[K, d]` of every picture that the first LLM layer gets."""
    seen: list[Tensor] = []
    with attach(model, plan(*stages)) as handle:
        hook = (
            language(model)
            .layers[0]
            .register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(kwargs.get("hidden_states", *args[:1])),
                with_kwargs=True,
            )
        )
        logits(model, inputs)
        hook.remove()
        left = [image.kept for image in handle.trace.images]
    found, at = [], 0
    ids = inputs["input_ids"][0].tolist()
    for count, tiles in zip(left, TILES, strict=True):
        at += ids.index(IMAGE)
        found.append(seen[0][0, at : at + count])
        at += count
        ids = ids[ids.index(IMAGE) + tiles * UNITS :]
    return found


def projected(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """All tokens of the tiles, as the model itself makes them."""
    found: Tensor = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    return found


@pytest.mark.parametrize("stages", PLANS.values(), ids=PLANS)
def test_it_is_what_attach_gives_the_llm(stages: tuple[Any, ...]) -> None:
    model, inputs = case_of("internvl").build(), prompt()
    expected = given_to_the_llm(model, inputs, stages)
    with tiled_encoder(model.model.vision_tower, plan(*stages), side=2) as pruned, torch.no_grad():
        found = pruned.run(lambda: projected(model, inputs), TILES)
    for one, other, tiles in zip(found, expected, TILES, strict=True):
        assert count_tiled((1, 3, 3), plan(*stages), used=4, tiles=tiles) == len(other)
        torch.testing.assert_close(one.features[0], other, rtol=0, atol=1e-5)
        assert one.index.shape == one.size.shape == one.features.shape[:2]
    with torch.no_grad():
        assert projected(model, inputs).shape[:2] == (sum(TILES), UNITS), "given back as it was"


def test_what_it_refuses() -> None:
    model, inputs = case_of("internvl").build(), prompt()
    vision = model.model.vision_tower
    with pytest.raises(UnsupportedModelError, match="packed_encoder"):
        tiled_encoder(tower(), plan(INSIDE))
    late = {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 3}
    with pytest.raises(PlanError, match="inside the LLM"):
        tiled_encoder(vision, plan(late), side=2)
    with pytest.raises(SignalError, match="vistog"):
        tiled_encoder(vision, plan(LEARNED), side=2)
    with pytest.raises(BudgetError, match="20"):
        tiled_encoder(vision, plan({**INSIDE, "keep": 20}), side=2)
    with pytest.raises(BudgetError, match="20 of 18"):
        count_tiled((1, 3, 3), plan({**DROPS}, {**TILE, "keep": 20}), used=4, tiles=3)
    with tiled_encoder(vision, plan(INSIDE), side=2) as pruned, torch.no_grad():
        with pytest.raises(AlreadyAttachedError):
            tiled_encoder(vision, plan(INSIDE), side=2)
        with pytest.raises(UnsupportedCallError, match="not what the tower put out"):
            pruned.run(lambda: projected(model, inputs)[:, 1:], TILES)
        with pytest.raises(UnsupportedCallError, match="the tower saw 9 pieces"):
            pruned.run(lambda: projected(model, inputs), [1, 3])
    with pytest.raises(UnsupportedCallError, match="detached"):
        pruned.run(lambda: projected(model, inputs), TILES)
