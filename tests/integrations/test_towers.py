"""`integrations.encoder`: what an engine's own tower leaves is what `attach` gives the LLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models import (
    IMAGE_TOKEN,
    PATCHES,
    clip_vision,
    llava_clip,
    llava_inputs,
    llava_siglip,
    pixels,
)
from tokenprune import attach
from tokenprune.engine.attachment import ATTACHED
from tokenprune.errors import (
    AlreadyAttachedError,
    BudgetError,
    LayerError,
    PlanError,
    UnsupportedCallError,
    UnsupportedModelError,
)
from tokenprune.integrations import encoder

PROMPTS = [[1, IMAGE_TOKEN, 27, 28, 29], [1, IMAGE_TOKEN, 25, 26, 24]]
INSIDE = {"at": "encoder", "strategy": "evoprune", "keep": 18}
BEHIND = {"at": "pre_llm", "strategy": "fopru", "keep": 9}
PLANS = {
    "dense": ([], PATCHES),
    "merged inside": ([INSIDE], 18),
    "dropped behind": ([BEHIND], 9),
    "merged, then dropped": ([INSIDE, BEHIND], 9),
    "restored, then dropped": (
        [{"at": "encoder", "strategy": "ipcv", "keep": 18, "layer": 2}, BEHIND],
        9,
    ),
    "ratios": ([{**INSIDE, "keep": 0.5}, {**BEHIND, "keep": 0.25}], 4),
}


def plan(stages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"stages": stages}


def given_to_the_llm(model: Any, stages: list[dict[str, Any]], count: int) -> Tensor:
    """The visual part `[B, count, d]` of what an attached model's first LLM layer gets."""
    inputs = llava_inputs(PROMPTS)
    seen: list[Tensor] = []
    first = int((inputs["input_ids"][0] == IMAGE_TOKEN).nonzero()[0])
    with torch.no_grad(), attach(model, plan(stages)):
        layer = model.model.language_model.layers[0]
        hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model(**inputs)
        hook.remove()
    (embeds,) = seen
    return embeds[:, first : first + count]


@pytest.mark.parametrize("stages", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("made", [llava_clip, llava_siglip])
def test_it_is_what_attach_gives_the_llm(made: Any, stages: tuple[list[Any], int]) -> None:
    model = made(vision_feature_layer=-2).eval()
    wanted, count = stages
    expected = given_to_the_llm(model, wanted, count)
    core, images = model.model, llava_inputs(PROMPTS)["pixel_values"]
    layer, cut = model.config.vision_feature_layer, made is llava_clip

    def features() -> Tensor:
        states = core.vision_tower(images, output_hidden_states=True).hidden_states
        return states[layer]

    used = len(core.vision_tower.encoder.layers) + 1 + layer
    with encoder(core.vision_tower, plan(wanted), used=used) as pruned:
        assert pruned.count() == pruned.count((1, 6, 6)) == count
        with torch.no_grad():
            found = pruned.run(features, projector=core.multi_modal_projector)
            bare = pruned.run(
                lambda: features()[:, 1:] if cut else features(),
                prefix=0,
                projector=core.multi_modal_projector,
            )
    assert torch.equal(found.features, bare.features)
    torch.testing.assert_close(found.features, expected, rtol=0, atol=1e-6)
    assert found.index.shape == found.size.shape == expected.shape[:2]
    assert core.vision_tower not in ATTACHED


def test_the_tower_is_as_before() -> None:
    tower = clip_vision().eval()
    with torch.no_grad():
        before = tower(pixels()).last_hidden_state
        pruned = encoder(tower, plan([INSIDE]))
        assert pruned.run(lambda: tower(pixels()).last_hidden_state).features.shape[1] == 18
        assert [step.kept for step in pruned.trace.image(0).steps][-1] == 18
        pruned.detach()
        pruned.detach()
        assert torch.equal(before, tower(pixels()).last_hidden_state)
        with pytest.raises(UnsupportedCallError, match="detached"):
            pruned.run(lambda: tower(pixels()).last_hidden_state)
        with pytest.raises(UnsupportedCallError, match="detached"), pruned:
            pass


REFUSED = {
    "in the LLM": ({"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 9}, PlanError),
    "data-dependent": ({"at": "pre_llm", "strategy": "cls_inflection"}, PlanError),
    "more than there are": ({"at": "pre_llm", "strategy": "uniform", "keep": 99}, BudgetError),
    "a mean over layers": (
        {"at": "pre_llm", "strategy": "uniform", "keep": {"average": 9}},
        BudgetError,
    ),
    "beyond the blocks": (
        {"at": "encoder", "strategy": "ipcv", "keep": 9, "layer": 40},
        LayerError,
    ),
}


@pytest.mark.parametrize("stage", REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_changes(stage: tuple[dict[str, Any], type[Exception]]) -> None:
    tower = clip_vision().eval()
    with pytest.raises(stage[1]):
        encoder(tower, plan([stage[0]]))
    assert "forward" not in vars(tower)
    assert tower not in ATTACHED


def test_one_plan_a_tower_and_no_whole_models() -> None:
    tower = clip_vision().eval()
    with encoder(tower, plan([INSIDE])), pytest.raises(AlreadyAttachedError):
        encoder(tower, plan([INSIDE]))
    with pytest.raises(UnsupportedModelError, match="not its vision tower"):
        encoder(llava_clip(), plan([INSIDE]))
    for used in (0, 99):
        with pytest.raises(LayerError, match="blocks can't feed"):
            encoder(tower, plan([INSIDE]), used=used)
    with pytest.raises(PlanError, match="frames"):
        encoder(tower, {"images": "frames", **plan([INSIDE])})


def test_features_that_are_not_the_towers() -> None:
    tower = clip_vision().eval()
    with encoder(tower, plan([INSIDE])) as pruned:
        with pytest.raises(UnsupportedCallError):
            pruned.run(lambda: torch.zeros(2, PATCHES + 1, 8))
        with pytest.raises(UnsupportedCallError):
            pruned.run(lambda: tower(pixels()).last_hidden_state[:, 3:])
