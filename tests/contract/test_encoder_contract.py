"""The invariants of the design page for every strategy x encoder."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests import models
from tests.contract.cases import (
    ENCODER_STAGES,
    ENCODERS,
    KEEP,
    MATRIX,
    MERGING,
    attached,
    footprint,
    plan,
    same,
)
from tokenprune.errors import AlreadyAttachedError, NonFiniteError, StrategyFailedError
from tokenprune.interface.trace import Trace

HF = [name for name, encoder in ENCODERS.items() if encoder.eager]
BATCH = 3

every_pair = pytest.mark.parametrize(("strategy", "name"), MATRIX)
every_encoder = pytest.mark.parametrize("name", ENCODERS)


@cache
def _model(name: str) -> nn.Module:
    """A tiny encoder; tests share it, so they leave it as it was."""
    model: nn.Module = ENCODERS[name].build()
    return model


@cache
def _other(name: str, attention: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same with another attention, or in another type."""
    model: nn.Module = ENCODERS[name].build(*([attention] if attention else []))
    return model.to(dtype)


@cache
def _plain(name: str) -> dict[str, Tensor]:
    """Outputs of the plain encoder."""
    return ENCODERS[name].run(_model(name), ENCODERS[name].inputs(BATCH))


@dataclass(frozen=True)
class Run:
    """What calls under a plan gave, each made once, and what was left of it.

    Attributes:
        together: outputs of a batch.
        trace: of that call.
        tokens: measured in it.
        alone: outputs of every picture in a call of its own, and the trace.
        again: those of the batch, the plan attached anew.
        after: those of the plain encoder, behind all of this.
        before: what stood on the model in front of it.
        left: what stands on it behind.
    """

    together: dict[str, Tensor]
    trace: Trace
    tokens: dict[str, float]
    alone: list[tuple[dict[str, Tensor], Trace]]
    again: dict[str, Tensor]
    after: dict[str, Tensor]
    before: dict[str, Any]
    left: dict[str, Any]


@cache
def _run(strategy: str, name: str) -> Run:
    encoder, model, stage = ENCODERS[name], _model(name), ENCODER_STAGES[strategy]
    inputs, alone = encoder.inputs(BATCH), []
    _plain(name)  # transformers installs hooks of its own at the first call
    before = footprint(model)
    with attached(model, stage) as handle:
        together = encoder.run(model, inputs)
        trace, tokens = handle.trace, dict(handle.meter.tokens)
        for number in range(BATCH):
            single = {key: value[number : number + 1] for key, value in inputs.items()}
            alone.append((encoder.run(model, single), handle.trace))
    with attached(model, stage):
        again = encoder.run(model, inputs)
    left = footprint(model)
    after = encoder.run(model, inputs)
    return Run(together, trace, tokens, alone, again, after, before, left)


@every_pair
def test_keep_all_is_bit_exact(strategy: str, name: str) -> None:
    encoder, model = ENCODERS[name], _model(name)
    with attached(model, ENCODER_STAGES[strategy], keep=1.0):
        assert same(encoder.run(model, encoder.inputs(BATCH)), _plain(name))


@every_encoder
def test_a_plan_without_stages_is_bit_exact(name: str) -> None:
    encoder, model = ENCODERS[name], _model(name)
    with tokenprune.attach(model, {"schema_version": 1}) as handle:
        assert same(encoder.run(model, encoder.inputs(BATCH)), _plain(name))
        assert handle.meter.images


@every_pair
def test_detach_leaves_nothing_behind(strategy: str, name: str) -> None:
    run = _run(strategy, name)
    assert run.left == run.before
    assert same(run.after, _plain(name))
    assert not same(run.together, _plain(name))


@every_pair
def test_the_count_is_the_plans(strategy: str, name: str) -> None:
    run = _run(strategy, name)
    inside = [step.kept for step in run.trace.image(2).steps]
    assert min(inside) == KEEP
    assert run.tokens["encoder_inside"] == KEEP
    restored = ENCODER_STAGES[strategy]["strategy"] == "ipcv"
    left = models.PATCHES if restored else KEEP
    assert run.trace.image(0).kept == run.tokens["encoder"] == left


@every_pair
def test_a_batch_gives_what_its_samples_give_alone(strategy: str, name: str) -> None:
    run = _run(strategy, name)
    for number, (single, trace) in enumerate(run.alone):
        together = run.trace.images[number].steps[-1].anchor
        assert torch.equal(trace.image(0).steps[-1].anchor, together)
        for key, value in single.items():
            torch.testing.assert_close(value[0], run.together[key][number], rtol=1e-4, atol=1e-5)


@every_pair
def test_the_same_input_gives_the_same_answer(strategy: str, name: str) -> None:
    run = _run(strategy, name)
    assert same(run.again, run.together)


@every_pair
def test_bfloat16(strategy: str, name: str) -> None:
    encoder, model = ENCODERS[name], _other(name, "", torch.bfloat16)
    inputs = {
        key: value.to(torch.bfloat16) if value.is_floating_point() else value
        for key, value in encoder.inputs(2).items()
    }
    with attached(model, ENCODER_STAGES[strategy]) as handle:
        output = encoder.run(model, inputs)
        assert handle.trace.image(0).steps
    assert all(value.dtype == torch.bfloat16 for value in output.values())
    assert all(value.isfinite().all() for value in output.values())


@pytest.mark.parametrize("strategy", ENCODER_STAGES)
@pytest.mark.parametrize("name", HF)
def test_eager_and_sdpa_agree(strategy: str, name: str) -> None:
    run, encoder, model = _run(strategy, name), ENCODERS[name], _other(name, "eager")
    with attached(model, ENCODER_STAGES[strategy]) as handle:
        eager = encoder.run(model, encoder.inputs(BATCH))
        anchors = [trace.image(1).steps[-1].anchor for trace in (handle.trace, run.trace)]
    assert torch.equal(*anchors)
    for key, value in run.together.items():
        torch.testing.assert_close(value, eager[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", MERGING)
@every_encoder
def test_merges_lose_no_patch(strategy: str, name: str) -> None:
    for image in _run(strategy, name).trace.images[:BATCH]:
        final = image.steps[-1].assignment
        assert final.shape == (models.PATCHES,)
        assert (final >= 0).all()
        assert torch.bincount(final, minlength=KEEP).min() >= 1


@every_encoder
def test_attaching_twice_is_refused(name: str) -> None:
    model = _model(name)
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
