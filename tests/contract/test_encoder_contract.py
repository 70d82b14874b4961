"""The invariants of the design page for every strategy x encoder."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.contract.cases import (
    ENCODER_STAGES,
    ENCODERS,
    KEEP,
    MATRIX,
    MERGING,
    Encoder,
    attached,
    footprint,
    plan,
    same,
)
from tokenprune.errors import AlreadyAttachedError, NonFiniteError, StrategyFailedError

Stage = dict[str, Any]
HF = {name: encoder for name, encoder in ENCODERS.items() if encoder.eager}


@pytest.mark.parametrize(("stage", "encoder"), MATRIX)
def test_keep_all_is_bit_exact(stage: Stage, encoder: Encoder) -> None:
    model, inputs = encoder.build(), encoder.inputs(2)
    plain = encoder.run(model, inputs)
    with attached(model, stage, keep=1.0):
        assert same(encoder.run(model, inputs), plain)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_a_plan_without_stages_is_bit_exact(encoder: Encoder) -> None:
    model, inputs = encoder.build(), encoder.inputs(3)
    plain = encoder.run(model, inputs)
    with tokenprune.attach(model, {"schema_version": 1}) as handle:
        assert same(encoder.run(model, inputs), plain)
        assert handle.meter.images


@pytest.mark.parametrize(("stage", "encoder"), MATRIX)
def test_detach_leaves_nothing_behind(stage: Stage, encoder: Encoder) -> None:
    model, inputs = encoder.build(), encoder.inputs(2)
    plain = encoder.run(model, inputs)  # transformers installs hooks of its own at the first call
    before = footprint(model)
    with attached(model, stage):
        pruned = encoder.run(model, inputs)
    assert footprint(model) == before
    assert same(encoder.run(model, inputs), plain)
    assert not same(pruned, plain)


@pytest.mark.parametrize(("stage", "encoder"), MATRIX)
def test_the_count_is_the_plans(stage: Stage, encoder: Encoder) -> None:
    model = encoder.build()
    with attached(model, stage) as handle:
        model_inputs = encoder.inputs(3)
        encoder.run(model, model_inputs)
        trace = handle.trace
        measured = handle.meter.tokens
    inside = [step.kept for step in trace.image(2).steps]
    assert min(inside) == KEEP
    assert measured["encoder_inside"] == KEEP
    restored = stage["strategy"] == "ipcv"
    assert trace.image(0).kept == measured["encoder"] == (models.PATCHES if restored else KEEP)


@pytest.mark.parametrize(("stage", "encoder"), MATRIX)
def test_a_batch_gives_what_its_samples_give_alone(stage: Stage, encoder: Encoder) -> None:
    model, inputs = encoder.build(), encoder.inputs(3)
    with attached(model, stage) as handle:
        together = encoder.run(model, inputs)
        anchors = [image.steps[-1].anchor for image in handle.trace.images[:3]]
        for number in range(3):
            alone = {name: value[number : number + 1] for name, value in inputs.items()}
            single = encoder.run(model, alone)
            assert torch.equal(handle.trace.image(0).steps[-1].anchor, anchors[number])
            for name, value in single.items():
                torch.testing.assert_close(value[0], together[name][number], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stage", "encoder"), MATRIX)
def test_the_same_input_gives_the_same_answer(stage: Stage, encoder: Encoder) -> None:
    model, inputs = encoder.build(), encoder.inputs(2)
    with attached(model, stage):
        first = encoder.run(model, inputs)
    with attached(model, stage):
        assert same(encoder.run(model, inputs), first)


@pytest.mark.parametrize(("stage", "encoder"), MATRIX)
def test_bfloat16(stage: Stage, encoder: Encoder) -> None:
    model = encoder.build().to(torch.bfloat16)
    inputs = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in encoder.inputs(2).items()
    }
    with attached(model, stage) as handle:
        output = encoder.run(model, inputs)
        assert handle.trace.image(0).steps
    assert all(value.dtype == torch.bfloat16 for value in output.values())
    assert all(value.isfinite().all() for value in output.values())


@pytest.mark.parametrize("stage", ENCODER_STAGES.values(), ids=ENCODER_STAGES)
@pytest.mark.parametrize("encoder", HF.values(), ids=HF)
def test_eager_and_sdpa_agree(stage: Stage, encoder: Encoder) -> None:
    outputs, anchors = [], []
    for attention in ("sdpa", "eager"):
        model = encoder.build(attention)
        with attached(model, stage) as handle:
            outputs.append(encoder.run(model, encoder.inputs(2)))
            anchors.append(handle.trace.image(1).steps[-1].anchor)
    assert torch.equal(*anchors)
    for name, value in outputs[0].items():
        torch.testing.assert_close(value, outputs[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", MERGING)
@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_merges_lose_no_patch(strategy: str, encoder: Encoder) -> None:
    model = encoder.build()
    with attached(model, ENCODER_STAGES[strategy]) as handle:
        encoder.run(model, encoder.inputs(2))
    for image in handle.trace.images[:2]:
        final = image.steps[-1].assignment
        assert final.shape == (models.PATCHES,)
        assert (final >= 0).all()
        assert torch.bincount(final, minlength=KEEP).min() >= 1


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_attaching_twice_is_refused(encoder: Encoder) -> None:
    model = encoder.build()
    with (
        attached(model, ENCODER_STAGES["tome"]),
        pytest.raises(AlreadyAttachedError, match="detach"),
    ):
        attached(model, ENCODER_STAGES["random"])
    attached(model, ENCODER_STAGES["random"]).detach()


def test_two_models_carry_different_plans() -> None:
    left, right = models.clip_vision(), models.clip_vision()
    pictures = models.pixels(1)
    with attached(left, ENCODER_STAGES["tome"], keep=20), attached(right, ENCODER_STAGES["random"]):
        assert left(pictures).last_hidden_state.shape[1] == 21
        assert right(pictures).last_hidden_state.shape[1] == KEEP + 1


def test_a_seed_decides_what_random_keeps() -> None:
    anchors = []
    for seed in (0, 0, 1):
        model = models.clip_vision()
        with tokenprune.attach(model, plan(ENCODER_STAGES["random"], seed=seed)) as handle:
            model(models.pixels(2))
            anchors.append(handle.trace.image(0).steps[-1].anchor)
    assert torch.equal(anchors[0], anchors[1])
    assert not torch.equal(anchors[0], anchors[2])


def test_nan_is_refused_and_the_model_goes_on() -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["evoprune"]) as handle:
        good = model(pictures).last_hidden_state
        with pytest.raises(NonFiniteError, match=r"encoder\[\d\].*here or before"):
            model(pictures * float("nan"))
        assert torch.equal(model(pictures).last_hidden_state, good)
        assert len(handle.trace.images) == 2


def test_a_strategy_that_raises_is_named_and_leaves_the_model_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, pictures = models.siglip_vision(), models.pixels(1)
    plain = model(pictures).last_hidden_state
    with attached(model, ENCODER_STAGES["tome"]) as handle:
        strategy = handle.stages[0].strategy
        monkeypatch.setattr(strategy, "reduce", lambda tokens, budget: 1 / 0)
        with pytest.raises(StrategyFailedError, match=r"tome.*ZeroDivisionError"):
            model(pictures)
        monkeypatch.undo()
        assert model(pictures).last_hidden_state.shape[1] == KEEP
    assert torch.equal(model(pictures).last_hidden_state, plain)


def test_threads_do_not_share_a_call() -> None:
    model = models.timm_vit()
    pictures = [models.pixels(1, seed=seed) for seed in range(8)]
    found: list[Tensor | None] = [None] * 8
    with attached(model, ENCODER_STAGES["evoprune"]):
        with torch.no_grad():
            alone = [model(picture) for picture in pictures]

        def work(number: int) -> None:
            with torch.no_grad():
                for _ in range(5):
                    found[number] = model(pictures[number])

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for mine, expected in zip(found, alone, strict=True):
        assert mine is not None
        assert torch.equal(mine, expected)
