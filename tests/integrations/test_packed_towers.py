"""`integrations.packed_encoder`: what an engine's packed tower leaves is what the LLM gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families.calls import case_of, language, logits
from tests.families.plans import plan
from tests.models import clip_vision
from tests.packed import GRIDS, call, tower
from tokenprune import attach
from tokenprune.engine.attachment import ATTACHED
from tokenprune.errors import (
    AlreadyAttachedError,
    BudgetError,
    PlanError,
    UnsupportedCallError,
    UnsupportedModelError,
)
from tokenprune.integrations import encoder, packed_encoder

INSIDE = {"at": "encoder", "strategy": "tome", "keep": 0.5}
BEHIND = {"at": "pre_llm", "strategy": "fopru", "keep": 0.5, "params": {"direction": "received"}}
PLANS = {
    "dense": (),
    "merged inside": (INSIDE,),
    "dropped behind": (BEHIND,),
    "both": (INSIDE, BEHIND),
    "restored, then dropped": (
        {"at": "encoder", "strategy": "ipcv", "keep": 0.5, "layer": 2},
        BEHIND,
    ),
}
UNITS = [(t, h // 2, w // 2) for t, h, w in GRIDS]


def given_to_the_llm(model: Any, inputs: dict[str, Tensor], stages: tuple[Any, ...]) -> Tensor:
    """The visual part `[K, d]` of what the first LLM layer gets of one prompt."""
    seen: list[Tensor] = []
    visual = (inputs["mm_token_type_ids"][0] > 0).nonzero()[:, 0]
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
        (image,) = handle.trace.images
    first = int(visual[0])
    return seen[0][0, first : first + image.kept]


@pytest.mark.parametrize("stages", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_it_is_what_attach_gives_the_llm(name: str, stages: tuple[Any, ...]) -> None:
    case = case_of(name)
    model, inputs = case.build(), case.inputs("one", "none")
    expected = given_to_the_llm(model, inputs, stages)
    visual, made = model.model.visual, list[Any]()

    def features() -> list[Tensor]:
        made.append(visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]))
        return [made[0].pooler_output, *getattr(made[0], "deepstack_features", ())]

    t, h, w = inputs["image_grid_thw"][0].tolist()
    with packed_encoder(visual, plan(*stages)) as pruned, torch.no_grad():
        (found,) = pruned.run(features)
        assert pruned.count((t, h // 2, w // 2)) == found.index.shape[1] == len(expected)
    torch.testing.assert_close(found.features[0], expected, rtol=0, atol=1e-6)
    assert found.index.shape == found.size.shape == found.features.shape[:2]
    assert len(found.levels) == (2 if name == "qwen3_vl" else 0)
    for level, rows in zip(found.levels, getattr(made[0], "deepstack_features", ()), strict=True):
        assert torch.equal(level[0], rows[found.index[0]])
        assert bool((level != 0).any(dim=-1).all())
    assert visual not in ATTACHED


@pytest.mark.parametrize("stages", PLANS.values(), ids=PLANS)
def test_pictures_of_any_size_and_clips_leave_what_is_counted(stages: tuple[Any, ...]) -> None:
    visual, given = tower(), call()
    with packed_encoder(visual, plan(*stages)) as pruned, torch.no_grad():
        found = pruned.run(lambda: visual(**given).pooler_output)
        assert [one.index.shape[1] for one in found] == [pruned.count(grid) for grid in UNITS]
        traced = [image.steps[-1].anchor for image in pruned.trace.images if image.steps]
    assert [image.tolist() for image in traced] == [
        one.index[0].tolist() for one in found if stages
    ]
    if stages == (INSIDE,):
        for one, (t, h, w) in zip(found, UNITS, strict=True):
            assert float(one.size.sum()) == t * h * w


def test_the_tower_is_as_before() -> None:
    visual, given = tower(), call()
    with torch.no_grad():
        before = visual(**given).pooler_output
        pruned = packed_encoder(visual, plan(INSIDE))
        assert len(pruned.run(lambda: visual(**given).pooler_output)) == len(GRIDS)
        pruned.detach()
        pruned.detach()
        assert torch.equal(visual(**given).pooler_output, before)
        with pytest.raises(UnsupportedCallError, match="detached"):
            pruned.run(lambda: visual(**given).pooler_output)


def test_a_pixtral_tower_leaves_patches() -> None:
    case = case_of("mistral3")
    pixtral, given = case.build().model.vision_tower, case.inputs("two_sizes")
    shown = {"pixel_values": given["pixel_values"], "image_sizes": given["image_sizes"]}
    with packed_encoder(pixtral, plan(INSIDE)) as pruned, torch.no_grad():
        found = pruned.run(lambda: pixtral(**shown).last_hidden_state[0])
        grids = [(1, h // 8, w // 8) for h, w in given["image_sizes"].tolist()]
        assert [one.index.shape[1] for one in found] == [pruned.count(grid) for grid in grids]


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        ({"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 9}, PlanError),
        ({"at": "pre_llm", "strategy": "prunevid"}, PlanError),
    ],
)
def test_refused_before_anything_changes(stage: dict[str, Any], error: type[Exception]) -> None:
    visual = tower()
    with pytest.raises(error):
        packed_encoder(visual, plan(stage))
    assert "forward" not in vars(visual)
    assert visual not in ATTACHED


def test_what_does_not_fit() -> None:
    visual, given = tower(), call()
    with pytest.raises(UnsupportedModelError, match="packed_encoder"):
        encoder(visual, plan(INSIDE))
    with pytest.raises(UnsupportedModelError, match=r"integrations\.encoder"):
        packed_encoder(clip_vision(), plan(INSIDE))
    with packed_encoder(visual, plan({**INSIDE, "keep": 9})) as pruned:
        with pytest.raises(AlreadyAttachedError):
            packed_encoder(visual, plan(INSIDE))
        with pytest.raises(BudgetError):
            pruned.count((1, 2, 2))
        with pytest.raises(UnsupportedCallError, match="wasn't called"):
            pruned.run(lambda: torch.zeros(3, 8))
    with (
        packed_encoder(visual, plan(INSIDE)) as pruned,
        pytest.raises(UnsupportedCallError, match="it saw"),
        torch.no_grad(),
    ):
        pruned.run(lambda: visual(**given).pooler_output[1:])
