"""Shapes of method that the interface has to carry, each proved by a small plugin of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.contract.shapes import MARK, SHAPES, Follow, Leave
from tokenprune.plugins.host import register_plugin

IMG = models.IMAGE_TOKEN
PROMPTS = [[1, IMG, 7, 8, 9, 10], [1, IMG, 11, IMG, 12], [1, 13, IMG, 14, 15]]


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    Follow.seen.clear()
    Leave.masses.clear()
    with register_plugin(SHAPES, "shapes"):
        yield


def stage(at: str, strategy: str, keep: Any, **rest: Any) -> dict[str, Any]:
    return {"at": at, "strategy": strategy, "keep": keep, **rest}


def attached(model: Any, *stages: dict[str, Any]) -> tokenprune.Attachment:
    return tokenprune.attach(model, {"schema_version": 1, "stages": list(stages)})


def rows(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Logits at the text tokens of every sample, without padding."""
    with torch.no_grad():
        found = model(**inputs).logits
    text = (inputs["attention_mask"] == 1) & (inputs["input_ids"] != IMG)
    return [row[kept] for row, kept in zip(found, text, strict=True)]


def alone(inputs: dict[str, Tensor], prompts: list[list[int]]) -> Iterator[dict[str, Tensor]]:
    """The calls of every sample alone, with its own pictures."""
    start = 0
    for prompt in prompts:
        one = models.llava_inputs([prompt])
        one["pixel_values"] = inputs["pixel_values"][start : start + prompt.count(IMG)]
        start += prompt.count(IMG)
        yield one


def same_alone(model: Any, prompts: list[list[int]] = PROMPTS) -> None:
    inputs = models.llava_inputs(prompts)
    for batched, one in zip(rows(model, inputs), alone(inputs, prompts), strict=True):
        torch.testing.assert_close(batched, rows(model, one)[0], rtol=1e-4, atol=1e-5)


CARRIED = {
    "encoder to pre_llm to decoder": [
        stage("encoder", MARK, 30, layer=1),
        stage("pre_llm", "s-follow", 20),
        stage("decoder", "s-follow", 8, layer=1),
        stage("decoder", "s-follow", 3, layer=3),
    ],
    "merges in between": [
        stage("encoder", MARK, 33, layer=0),
        stage("encoder", "tome", 20, layers=[1, 2]),
        stage("pre_llm", "random", 15),
        stage("pre_llm", "s-follow", 9),
        stage("decoder", "fastv", 6, layer=1),
        stage("decoder", "s-follow", 3, layer=2),
    ],
    "from pre_llm, which removes nothing": [
        stage("pre_llm", MARK, 1.0),
        stage("pre_llm", "s-inflection", 0.5),
        stage("decoder", "s-follow", 0.5, layer=2),
    ],
    "from the decoder, which removes nothing": [
        stage("decoder", MARK, 1.0, layer=1),
        stage("decoder", "fastv", 12, layer=2),
        stage("decoder", "s-follow", 5, layer=3),
    ],
    "through a reconstruction": [
        stage("encoder", MARK, 33, layer=0),
        stage("encoder", "ipcv", 20, layer=2),
        stage("pre_llm", "s-follow", 9),
        stage("decoder", "s-follow", 4, layer=2),
    ],
}


@pytest.mark.parametrize("name", CARRIED)
def test_riders_stay_with_their_patches(name: str) -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    with attached(model, *CARRIED[name]):
        rows(model, inputs)
        later = sum(one["strategy"] == "s-follow" for one in CARRIED[name])
        assert len({tokens.site for tokens in Follow.seen}) == later
        for tokens in Follow.seen:
            noted, norm = tokens.riders[MARK].unbind(dim=-1)
            off = noted.long() - tokens.index  # several images of a prompt follow each other
            assert not (off % models.PATCHES).any()
            assert norm.unique().numel() == norm.numel()
        same_alone(model)


def test_a_later_stage_decides_by_what_the_first_one_noted() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS[:1])
    stages = stage("pre_llm", MARK, 30), stage("decoder", "s-follow", 5, layer=2)
    with attached(model, *stages) as handle:
        rows(model, inputs)
        steps = handle.trace.images[0].steps
    norm = Follow.seen[0].riders[MARK][0, :, 1].tolist()
    best = sorted(range(30), key=lambda token: -norm[token])[:5]
    assert steps[-1].anchor.tolist() == sorted(best)


def test_lengths_by_an_inflection_point() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    with attached(model, stage("pre_llm", "s-inflection", 0.75)) as handle:
        rows(model, inputs)
        traced = handle.trace.images
        same_alone(model)
    kept = [image.kept for image in traced]
    assert len(set(kept)) > 1
    for image in traced:
        step = image.steps[0]
        assert step.score is not None
        ordered = sorted(step.score.tolist(), reverse=True)[:27]
        falls = [before - after for before, after in pairwise(ordered)]
        assert image.kept == falls.index(max(falls)) + 1
        best = step.score.argsort(descending=True, stable=True)[: image.kept]
        assert step.anchor.tolist() == sorted(best.tolist())


@pytest.mark.parametrize("at", ["pre_llm", "decoder"])
def test_merges_of_a_data_dependent_length(at: str) -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    layer = {"layer": 1} if at == "decoder" else {}
    stages = stage(at, "s-lump", 1.0, **layer), stage("decoder", "fastv", 0.5, layer=2)
    with attached(model, *stages) as handle:
        rows(model, inputs)
        images = handle.trace.images
        same_alone(model)
    left = [len(image.steps[0].anchor) for image in images]
    assert len(set(left)) > 1
    for image, count in zip(images, left, strict=True):
        step = image.steps[0]
        assert step.assignment.unique().tolist() == list(range(count))  # no patch is dropped
        assert (step.assignment.diff() >= 0).all()
        assert step.anchor.tolist() == [step.assignment.tolist().index(k) for k in range(count)]


def test_samples_of_a_batch_exit_at_layers_of_their_own() -> None:
    prompts = [[1, IMG, 7, 8, 9, 10], [1, IMG, 30, 31, 32], [1, 13, IMG, 14, 15]]
    model, inputs = models.llava_clip(), models.llava_inputs(prompts)
    never = [stage("decoder", "s-leave", 1.0, layer=n, params={"below": 0.0}) for n in (1, 2, 3)]
    with attached(model, *never):
        rows(model, inputs)
    first = sorted(Leave.masses[1])
    below = (first[0] + first[1]) / 2  # one sample leaves at layer 1, the others stay there
    last = max(Leave.masses[3]) + 1
    stages = [
        stage("decoder", "s-leave", 1.0, layer=1, params={"below": below}),
        stage("decoder", "s-leave", 1.0, layer=3, params={"below": last}),
    ]
    with attached(model, *stages) as handle:
        rows(model, inputs)
        exits = [image.steps[0].kept for image in handle.trace.images]
        assert sorted(exits) == [0, 36, 36]
        assert [image.kept for image in handle.trace.images] == [0, 0, 0]
        assert handle.meter.tokens["decoder[1]"] == 24
        assert handle.meter.tokens["decoder[3]"] == 0
        same_alone(model, prompts)


def test_learned_tokens_take_their_gradient_through_the_llm() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMG, -100)
    with attached(model, stage("pre_llm", "s-learned", 6)) as handle:
        modules = handle.stages[0].strategy.modules()
        assert modules is not None
        queries = next(modules.parameters())
        before = model(**inputs, labels=labels).loss
        before.backward()
        assert queries.grad is not None
        assert all(float(row.norm()) > 0 for row in queries.grad)
        with torch.no_grad():
            queries -= 0.05 * queries.grad / queries.grad.norm()
            assert float(model(**inputs, labels=labels).loss) < float(before)
        assert handle.meter.tokens["llm"] == 6
        same_alone(model)


def test_text_is_pruned_by_a_plugin_that_declares_it() -> None:
    prompts = [[1, *range(20, 29), IMG, 7, 8, 9], [1, 40, IMG, *range(41, 47)]]
    model, inputs = models.llava_clip(), models.llava_inputs(prompts)
    plain = rows(model, inputs)
    with attached(model, stage("decoder", "s-words", 9, layer=2)) as handle:
        assert not torch.equal(rows(model, inputs)[0], plain[0])
        assert "text[2]" not in handle.meter.tokens
    with attached(model, stage("decoder", "s-words", 9, layer=2, keep_text=4)) as handle:
        rows(model, inputs)
        assert handle.meter.tokens["text[2]"] == 4
        assert handle.meter.tokens["decoder[2]"] == 9
        same_alone(model, prompts)


def test_an_image_that_lost_all_its_tokens_stays_lost_in_later_stages() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs([[1, IMG, 11, IMG, 12]])
    first = stage("decoder", MARK, 0.5, layer=1)  # all of the first image, none of the second
    with attached(model, first, stage("decoder", "s-follow", 0.5, layer=2)) as handle:
        rows(model, inputs)
        assert [image.kept for image in handle.trace.images] == [18, 0]
        assert (handle.trace.images[1].steps[-1].assignment == -1).all()
