"""`vscan` inside a model: its own scores, its stages behind other methods, videos, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_strategies.vscan import VScan

import tokenprune
from tests import models
from tests.contract.test_shapes import attached, rows, same_alone, stage
from tokenprune import Budget, Reduction, Tokens
from tokenprune.errors import LayerError, SignalError
from tokenprune.interface.signals import Signal

IMG = models.IMAGE_TOKEN
PROMPTS = [[1, IMG, 7, 8, 9, 10], [1, IMG, 11, IMG, 12], [1, 13, IMG, 14, 15]]
CLIPS = [[1, IMG, IMG, 7, 8, 9], [1, IMG, IMG, IMG, 20, 21], [1, IMG, IMG, 30]]
THREE = [
    stage("encoder", "evoprune", 20),
    stage("decoder", "vscan", 8, layer=2),
    {"at": "decoder", "strategy": "dyvte", "layers": [3, 3], "params": {"exit_layer": 2}},
]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Tokens]:
    found: list[Tokens] = []
    original = VScan.reduce

    def reduce(self: VScan, tokens: Tokens, budget: Budget) -> Reduction:
        found.append(tokens)
        return original(self, tokens, budget)

    monkeypatch.setattr(VScan, "reduce", reduce)
    return found


def test_the_scores_are_the_class_tokens_rows_of_two_plain_blocks(shown: list[Tokens]) -> None:
    inputs = models.llava_inputs(PROMPTS)
    with attached(models.llava_clip(), stage("pre_llm", "vscan", 9, params={"shallow": 1})) as on:
        rows(on.model, inputs)
    tower = models.llava_clip("eager").model.vision_tower
    with torch.no_grad():
        states = tower(inputs["pixel_values"], output_attentions=True)
    for name, block in (("cls_attention@1", 1), ("cls_attention", 2)):  # the last used of four
        row = states.attentions[block].mean(dim=1)[:, 0, 1:]
        torch.testing.assert_close(shown[0].signals[name], row, atol=1e-6, rtol=1e-4)


def test_what_the_llm_gets_is_the_mean_of_projected_features(shown: list[Tokens]) -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS[:1])
    with torch.no_grad():
        plain = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    given: list[torch.Tensor] = []
    layer = model.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    with attached(model, stage("pre_llm", "vscan", 9)) as handle:
        rows(model, inputs)
        step = handle.trace.images[0].steps[0]
    hook.remove()
    torch.testing.assert_close(shown[0].hidden[0], plain, atol=1e-6, rtol=1e-5)
    answer = VScan.from_params().reduce(shown[0], Budget(36, 9))
    assert answer.anchor is not None
    assert answer.slot is not None
    clusters = [plain[answer.slot[0] == place].mean(dim=0) for place in range(9)]
    assert step.anchor.tolist() == answer.anchor[0].tolist()
    torch.testing.assert_close(given[0][0, 1:10], torch.stack(clusters), atol=1e-5, rtol=1e-4)


def test_three_methods_in_one_plan_have_exact_counts() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    with attached(model, *THREE) as handle:
        rows(model, inputs)
        counts = handle.meter.tokens
        same_alone(model)
        out = {
            cache: model.generate(**inputs, max_new_tokens=4, do_sample=False, use_cache=cache)
            for cache in (True, False)
        }
    assert (counts["encoder"], counts["llm"], counts["decoder[2]"]) == (20, 20, 8)
    assert counts["decoder[3]"] == 0
    assert counts["llm_average"] == (20 + 20 + 8 + 0) / 4
    assert torch.equal(out[True], out[False])


def test_a_coupled_plan_with_an_exit_behind_it() -> None:
    coupled = stage("pre_llm", "vscan", {"average": 9})
    with attached(models.llava_clip(), coupled, stage("decoder", "vscan", 0.5), THREE[2]) as on:
        rows(on.model, models.llava_inputs(PROMPTS[:1]))
        assert (on.meter.tokens["llm"], on.meter.tokens["decoder[2]"]) == (12, 6)
        assert on.meter.tokens["llm_average"] == (12 + 12 + 6 + 0) / 4


@pytest.mark.parametrize("keep", [4, 0.25, {"average": 3}])
def test_frames_of_videos(keep: Any, shown: list[Tokens]) -> None:
    stages = [stage("pre_llm", "vscan", keep, params={"window": 3})]
    stages += [stage("decoder", "vscan", 2)]
    plan = {"schema_version": 1, "images": "frames", "stages": stages}
    model = models.llava_clip()
    with tokenprune.attach(model, plan) as handle:
        rows(model, models.llava_inputs(CLIPS))
        wanted = 9 if keep == 0.25 else 4
        assert handle.meter.tokens["llm"] == wanted
        assert {tokens.grid[0] for tokens in shown if tokens.site.stage == "pre_llm"} == {2, 3}
        same_alone(model, CLIPS)


def test_a_tower_without_class_token_says_what_is_missing() -> None:
    with pytest.raises(SignalError, match=r"cls_attention.*siglip.*clip, .*timm"):
        attached(models.llava_siglip(), stage("pre_llm", "vscan", 9))
    received = stage("pre_llm", "vscan", 9, params={"score": "received"})
    attached(models.llava_siglip(), received).detach()


def test_a_shallow_block_that_is_not_used_is_refused() -> None:
    with pytest.raises(SignalError, match="Blocks 0 to 2"):
        attached(models.llava_clip(), stage("pre_llm", "vscan", 9, params={"shallow": 4}))


def test_the_middle_of_this_llm_and_layers_that_it_has_not() -> None:
    with attached(models.llava_clip(), stage("decoder", "vscan", 9)) as on:
        rows(on.model, models.llava_inputs(PROMPTS[:1]))
        assert on.meter.tokens["decoder[2]"] == 9
    with pytest.raises(LayerError):
        attached(models.llava_clip(), stage("decoder", "vscan", 9, layer=16))


def test_both_ways_of_scoring_reach_the_second_stage(shown: list[Tokens]) -> None:
    for rope in (True, False):
        params = {"rope_in_scoring": rope}
        with attached(models.llava_clip(), stage("decoder", "vscan", 9, params=params)) as on:
            rows(on.model, models.llava_inputs(PROMPTS[:1]))
    turned, plain = (tokens.signals for tokens in shown)
    assert set(turned) == {Signal.AHEAD_ATTENTION.name}
    assert set(plain) == {Signal.AHEAD_ATTENTION_UNROTATED.name}
    both = turned["ahead_attention"], plain["ahead_attention_unrotated"]
    assert not torch.allclose(*both)
