"""Methods that set their own budget, inside a model: videos, shared state, caches, text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_strategies.prunevid.strategy import SEGMENT, PruneVid
from torch import Tensor

import tokenprune
from tests import models
from tests.contract.test_shapes import attached, same_alone, stage
from tests.mllm.calls import cache_of
from tokenprune import Budget, Reduction, Tokens
from tokenprune.errors import SignalError

IMG = models.IMAGE_TOKEN
PICTURES = [[1, IMG, 7, 8, 9, 10], [1, IMG, 11, 14, 12, 9], [1, 13, IMG, 14, 15]]
CLIPS = [[1, IMG, IMG, IMG, IMG, 7, 8, 9], [1, IMG, IMG, IMG, IMG, 20, 21]]
A, B = {"at": "pre_llm", "strategy": "prunevid"}, {"at": "decoder", "strategy": "prunevid"}
METHODS: dict[str, list[dict[str, Any]]] = {
    "prunevid": [A, B],
    "prunevid, budgets": [{**A, "keep": 9}, {**B, "keep": 4, "layer": 2}],
    "prunevid, global": [A, {**B, "params": {"scope": "global", "trim_cache": False}}],
    "prunevid behind tome": [{"at": "encoder", "strategy": "tome", "keep": 20}, A, B],
    "prunevid, pre_llm": [{**A, "params": {"untouched": 4}}],
    "prunevid, decoder": [B],
    "dycoke": [{"at": "pre_llm", "strategy": "dycoke"}],
    "fastvid": [{"at": "pre_llm", "strategy": "fastvid", "keep": 9}],
    "holitom": [
        {"at": "pre_llm", "strategy": "holitom", "keep": 9},
        {"at": "decoder", "strategy": "holitom", "keep": 0.5, "layer": 2},
    ],
    "aim": [{"at": "pre_llm", "strategy": "aim", "keep": 9}, {"at": "decoder", "strategy": "aim"}],
    "framefusion": [{"at": "decoder", "strategy": "framefusion", "params": {"cost": 0.5}}],
    "flashvid": [
        {"at": "pre_llm", "strategy": "flashvid", "keep": 9},
        {"at": "decoder", "strategy": "flashvid", "keep": 0.5, "layer": 2},
    ],
    "sttm": [{"at": "decoder", "strategy": "sttm", "params": {"tau_space": 0.5, "root": 0}}],
    "pact": [{"at": "decoder", "strategy": "pact", "params": {"cutoff": 0.5}}],
    "vlmpruner": [{"at": "decoder", "strategy": "vlmpruner", "keep": 9}],
    "cls_inflection": [{"at": "pre_llm", "strategy": "cls_inflection", "params": {"k_min": 3}}],
    "cls_inflection, twice": [
        {"at": "pre_llm", "strategy": "cls_inflection", "params": {"similarity": "cosine"}},
        {"at": "decoder", "strategy": "cls_inflection", "keep": 6, "keep_text": 1.0},
    ],
    "cls_inflection, before prunevid": [
        {"at": "pre_llm", "strategy": "cls_inflection"}, {**A, "params": {"untouched": 4}}, B,
    ],
}  # fmt: skip


def film(prompts: list[list[int]]) -> dict[str, Tensor]:
    """Two takes of every clip: the frames of each are alike."""
    inputs = models.llava_inputs(prompts)
    pictures = inputs["pixel_values"]
    noise = 0.05 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
    inputs["pixel_values"] = pictures[::2].repeat_interleave(2, dim=0) + noise
    return inputs


@pytest.mark.parametrize("images", ["separate", "frames"])
@pytest.mark.parametrize("name", METHODS)
def test_a_batch_is_its_samples(name: str, images: str) -> None:
    model = models.llava_clip()
    plan = {"schema_version": 1, "images": images, "stages": METHODS[name]}
    with tokenprune.attach(model, plan):
        same_alone(model, PICTURES if images == "separate" else CLIPS)


@pytest.mark.parametrize("name", METHODS)
def test_generation_with_and_without_cache(name: str) -> None:
    model, inputs = models.llava_clip(), film(CLIPS)
    plan = {"schema_version": 1, "images": "frames", "stages": METHODS[name]}
    told = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with tokenprune.attach(model, plan):
        cached = model.generate(**inputs, **told)
        assert torch.equal(cached, model.generate(**inputs, **told, use_cache=False))
    assert torch.equal(cached[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])


class Watch:
    """Notes what `prunevid` gets and answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[Tokens, Reduction]] = []
        plain = PruneVid.reduce

        def reduce(strategy: PruneVid, tokens: Tokens, budget: Budget) -> Reduction:
            answer = plain(strategy, tokens, budget)
            self.seen.append((tokens, answer))
            return answer

        monkeypatch.setattr(PruneVid, "reduce", reduce)


def test_the_second_stage_finds_the_groups_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, model, inputs = Watch(monkeypatch), models.llava_clip(), film(CLIPS[:1])
    params = {"gamma": 0.5, "tau": 0.999}
    plan = {"images": "frames", "stages": [{**A, "params": params}, B]}
    with tokenprune.attach(model, {"schema_version": 1, **plan}), torch.no_grad():
        model(**inputs)
    (first, merged), (second, kept) = watch.seen
    assert first.grid == (4, models.SIDE, models.SIDE)
    assert first.count == 4 * models.PATCHES
    assert first.hidden.shape[2] == model.config.text_config.hidden_size
    answer = merged.row(0)
    assert answer.anchor is not None
    notes = answer.riders[SEGMENT][:, answer.anchor[0]]
    assert torch.equal(second.riders[SEGMENT], notes)
    static = notes[0, :, 0] == 1
    assert 0 < int(static.sum()) < second.count
    assert int(second.size.sum()) == first.count
    assert kept.mask is not None
    frame = second.position[0, :, 0]
    for start in torch.unique(frame[static]).tolist():
        group = static & (frame == start)
        assert int(kept.mask[0, group].sum()) == max(int(0.4 * int(group.sum())), 1)


def test_a_video_is_one_and_pictures_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, model, inputs = Watch(monkeypatch), models.llava_clip(), film(CLIPS)
    for images, shape in (("separate", (8, 36)), ("frames", (2, 144))):
        watch.seen.clear()
        plan = {"schema_version": 1, "images": images, "stages": [A]}
        with tokenprune.attach(model, plan), torch.no_grad():
            model(**inputs)
        tokens, answer = watch.seen[0]
        assert tokens.size.shape == shape
        if images == "separate":
            assert [answer.row(one).length for one in range(8)] == [18] * 8


def test_the_cache_of_the_first_layers_is_trimmed() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PICTURES[:1])
    lengths = {}
    for trim in (True, False):
        two = {**B, "layer": 2, "keep": 5, "params": {"trim_cache": trim}}
        with attached(model, two), torch.no_grad():
            cache = cache_of(model(**inputs, use_cache=True))
        lengths[trim] = [layer.keys.shape[2] for layer in cache.layers]
    total = inputs["input_ids"].shape[1]
    assert lengths[False][:2] == [total] * 2
    assert set(lengths[True]) == {total - models.PATCHES + 5} == set(lengths[False][2:])


def test_a_ceiling_holds_for_every_image() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PICTURES)
    for name, most in (("prunevid", 9), ("cls_inflection", 7)):
        with attached(model, stage("pre_llm", name, most)) as handle, torch.no_grad():
            model(**inputs)
            assert all(0 < image.kept <= most for image in handle.trace.images)


def test_towers_without_a_class_token() -> None:
    model, inputs = models.llava_siglip(), models.llava_inputs(PICTURES)
    for similarity in ("attention", "cosine"):
        with pytest.raises(SignalError, match="cls"):
            attached(
                model, stage("pre_llm", "cls_inflection", 9, params={"similarity": similarity})
            )
    for similarity in ("received", "pooled"):
        told = stage("pre_llm", "cls_inflection", 9, params={"similarity": similarity})
        with attached(model, told) as handle, torch.no_grad():
            model(**inputs)
            assert all(0 < image.kept <= 9 for image in handle.trace.images)
            same_alone(model, PICTURES)


def test_text_is_cut_only_if_the_plan_says_so() -> None:
    words = [*range(20, 44)]
    prompts = [[1, 13, 14, IMG, *words], [1, IMG, *words[:12]]]
    model, inputs = models.llava_clip(), models.llava_inputs(prompts)
    told = {"at": "decoder", "strategy": "cls_inflection", "layer": 2}
    with attached(model, told) as handle, torch.no_grad():
        model(**inputs)
        assert "text[2]" not in handle.meter.tokens
    with attached(model, {**told, "keep_text": 1.0}) as handle, torch.no_grad():
        model(**inputs)
        offered = (2 + 23) + 11  # without the first token, which is special, and the last one
        assert handle.meter.tokens["text[2]"] < offered / 2
        same_alone(model, prompts)
    with attached(model, {**told, "keep_text": 5}) as handle, torch.no_grad():
        model(**inputs)
        assert handle.meter.tokens["text[2]"] == 5, "a ceiling below what would be spared"
