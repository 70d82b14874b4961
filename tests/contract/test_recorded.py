"""Passes of an encoder that are replayed give what they give as usual, and nothing is shared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests import models, towers
from tests.contract.cases import ENCODER_STAGES, ENCODERS, KEEP, attached
from tests.contract.compiling import tensors
from tests.contract.test_compiled import MERGING_AND_DROPPING, WHOLE_TOWERS
from tests.recording import Simulated, simulate
from tokenprune.errors import RecordingWarning, UnsupportedCallError

#: Towers of transformers that look at their masks or at the sizes of pictures.
LOOKING = ("idefics3", "siglip2-vision")
PLAIN = [name for name in ENCODERS if name not in LOOKING]


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return simulate(monkeypatch)


def called(model: Any, encoder: str) -> Callable[..., Any]:
    return model.get_image_features if encoder in WHOLE_TOWERS else model


def given(encoder: str, seed: int) -> dict[str, Tensor]:
    """Inputs with other values for every seed."""
    torch.manual_seed(seed)
    inputs = ENCODERS[encoder].inputs(2)
    return {
        name: torch.randn_like(value) if value.is_floating_point() else value
        for name, value in inputs.items()
    }


def steps(handle: tokenprune.Attachment) -> list[Any]:
    return [
        (one.grid, step.site, step.assignment.tolist(), step.anchor.tolist())
        for one in handle.trace.images
        for step in one.steps
    ]


def same(found: Any, plain: Any) -> bool:
    pairs = zip(tensors(found), tensors(plain), strict=True)
    return type(found) is type(plain) and all(torch.equal(one, other) for one, other in pairs)


def assert_replays(
    simulated: Simulated, model: nn.Module, call: Any, encoder: str, plan: Any
) -> None:
    """Five calls of which the first is no replay, all kept to the end."""
    inputs = [given(encoder, seed) for seed in range(5)]
    with tokenprune.attach(model, plan) as handle:
        plain = [(call(**one), steps(handle)) for one in inputs]
        counted = handle.report()
    with tokenprune.attach(model, plan).record() as handle:
        found = [(call(**one), steps(handle)) for one in inputs]
        report = handle.report()
    assert simulated.recorded == 1
    assert simulated.replayed == 4
    for (output, told), (other, others) in zip(found, plain, strict=True):
        assert same(output, other)
        assert told == others
    assert report.tokens == counted.tokens
    assert report.calls == 5
    assert any("replayed from CUDA graphs" in note for note in report.notes)


@pytest.mark.parametrize("encoder", PLAIN)
@torch.inference_mode()
def test_replays_of_every_tower_give_the_same(encoder: str, simulated: Simulated) -> None:
    model = ENCODERS[encoder].build()
    assert_replays(simulated, model, called(model, encoder), encoder, MERGING_AND_DROPPING)


@pytest.mark.parametrize("stage", ENCODER_STAGES)
@torch.no_grad()
def test_replays_of_every_static_strategy_give_the_same(stage: str, simulated: Simulated) -> None:
    model, acting = models.clip_vision(), {"at": "encoder", "keep": KEEP, **ENCODER_STAGES[stage]}
    plan = {"schema_version": 1, "stages": [acting]}
    assert_replays(simulated, model, model, "clip-vision", plan)


@torch.inference_mode()
def test_hidden_states_and_tuples_are_copied(simulated: Simulated) -> None:
    model, more = models.clip_vision(), {"output_hidden_states": True}
    for asked in (more, {**more, "return_dict": False}):
        with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
            plain = [model(models.pixels(2, seed=seed), **asked) for seed in range(4)]
            handle.record()
            found = [model(models.pixels(2, seed=seed), **asked) for seed in range(4)]
            assert all(same(one, other) for one, other in zip(found, plain, strict=True))
    assert simulated.replayed == 6
    last = found[-1][2]  # states are tensors of their own, and one tensor is one in the copy
    assert len({one.data_ptr() for one in last}) == len(last)


@torch.inference_mode()
def test_other_sizes_are_other_kinds_and_more_than_the_limit_run_as_usual(
    simulated: Simulated,
) -> None:
    model = models.clip_vision()
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        plain = {batch: model(models.pixels(batch)).last_hidden_state for batch in (1, 2, 3)}
        handle.record(limit=2)
        for _ in range(3):
            for batch in (1, 2, 3):
                found = model(models.pixels(batch)).last_hidden_state
                assert torch.equal(found, plain[batch])
        assert any("more than 2 kinds" in note for note in handle.report().notes)
    assert simulated.recorded == 2
    assert simulated.replayed == 4


@torch.inference_mode()
def test_other_arguments_and_modes_are_other_kinds(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record():
        for _ in range(2):
            plain = model(pictures)
            assert plain.hidden_states is None
        assert model(pictures, output_hidden_states=True).hidden_states is not None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not same(model(pictures), plain)
        model.config.output_hidden_states = True
        assert model(pictures).hidden_states is not None
    assert simulated.replayed == 1


@torch.inference_mode()
def test_methods_that_run_the_blocks_are_other_kinds(simulated: Simulated) -> None:
    model, pictures = ENCODERS["timm-vit"].build(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        plain = model(pictures), model.forward_features(pictures)
        handle.record()
        for _ in range(3):
            found = model(pictures), model.forward_features(pictures)
            assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
    assert simulated.recorded == 2
    assert simulated.replayed == 4


@torch.inference_mode()
def test_autocast_is_recorded_without_its_cache(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with (
        attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle,
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        plain = model(pictures).last_hidden_state
        handle.record()
        for _ in range(3):
            assert torch.equal(model(pictures).last_hidden_state, plain)
        assert torch.is_autocast_cache_enabled()
    assert simulated.replayed == 2


def test_gradients_and_training_run_as_usual(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record() as handle:
        for _ in range(3):
            model(pictures).last_hidden_state.sum().backward()
        assert next(model.parameters()).grad is not None
        model.train()
        with torch.no_grad():
            for _ in range(3):
                model(pictures)
        notes = " ".join(handle.report().notes)
        assert "where gradients are recorded." in notes
        assert "where a module is in training mode." in notes
    assert simulated.recorded == 0


@torch.inference_mode()
def test_hooks_inside_run_as_usual_and_those_around_a_replay_run_too(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    block = next(one for one in model.modules() if hasattr(one, "mlp"))
    seen = list[int]()
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record() as handle:
        for _ in range(3):
            model(pictures)
        hook = block.mlp.register_forward_hook(lambda *_: seen.append(1))
        for _ in range(3):
            model(pictures)
        # one replay was under way when the hook was noticed; a simulated one runs the function
        assert len(seen) == 3 + 1
        assert simulated.replayed == 3
        assert any("a hook stands on a CLIPMLP" in note for note in handle.report().notes)
        hook.remove()
        around = model.register_forward_hook(lambda *_: seen.append(1))
        for _ in range(3):
            model(pictures)
        around.remove()
    assert len(seen) == 7
    assert simulated.replayed == 5


@torch.no_grad()
def test_passes_in_training_mode_are_replayed_once_in_vain_at_most(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record():
        plain = [model(pictures).last_hidden_state for _ in range(3)][-1]
        model.train()
        for _ in range(3):
            model(pictures)
        assert simulated.replayed == 2 + 1
        model.eval()
        assert all(torch.equal(model(pictures).last_hidden_state, plain) for _ in range(2))
    assert simulated.recorded == 1
    assert simulated.replayed == 3 + 2


@torch.inference_mode()
def test_a_forward_that_was_replaced_inside_runs_as_usual(simulated: Simulated) -> None:
    model, pictures, seen = models.clip_vision(), models.pixels(2), list[int]()
    block: Any = next(one for one in model.modules() if hasattr(one, "mlp"))
    plain = block.mlp.forward

    def forward(hidden: Tensor) -> Tensor:
        seen.append(1)
        return plain(hidden)

    block.mlp.forward = forward
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record():
        for _ in range(3):
            model(pictures)
    assert len(seen) == 3
    assert simulated.recorded == 0


@torch.inference_mode()
def test_flops_are_counted_of_passes_as_usual(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        with handle.count_flops():
            model(pictures)
        flops = handle.report().flops
        handle.record()
        for _ in range(3):
            model(pictures)
        handle.meter.reset()
        with handle.count_flops():
            model(pictures)
        assert handle.report().flops == flops


@torch.inference_mode()
def test_detach_gives_the_graphs_back_and_attach_begins_without(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    dense = model(pictures).last_hidden_state
    handle = attached(model, ENCODER_STAGES["tome"], keep=KEEP).record()
    pruned = [model(pictures).last_hidden_state for _ in range(3)][-1]
    released = simulated.released
    handle.detach()
    assert simulated.released == released + 1
    assert torch.equal(model(pictures).last_hidden_state, dense)
    with pytest.raises(UnsupportedCallError, match="was detached"):
        handle.record()
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP):
        for _ in range(3):
            assert torch.equal(model(pictures).last_hidden_state, pruned)
    assert simulated.replayed == 2


@torch.inference_mode()
def test_a_call_that_raises_leaves_nothing_behind(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record() as handle:
        plain = [model(pictures).last_hidden_state for _ in range(2)][-1]
        with pytest.raises(ValueError, match="doesn't match"):
            model(torch.randn(2, 3, 40, 56))
        assert torch.equal(model(pictures).last_hidden_state, plain)
        assert handle.report().calls == 3


@torch.inference_mode()
def test_a_recording_that_fails_is_told_and_the_pass_runs_as_usual(simulated: Simulated) -> None:
    model, inputs = towers.idefics3(), towers.idefics3_inputs()
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        plain = model(**inputs)
        handle.record()
        assert same(model(**inputs), plain)
        with pytest.warns(RecordingWarning, match="reads values of the device"):
            assert same(model(**inputs), plain)
        told = steps(handle)
        assert same(model(**inputs), plain)  # and isn't tried again
        assert steps(handle) == told
        assert any("reads values" in note for note in handle.report().notes)
    assert simulated.recorded == 0


def test_what_can_never_be_recorded_is_refused_at_once() -> None:
    model = models.clip_vision()
    with (
        tokenprune.attach(model, MERGING_AND_DROPPING, checks="always") as handle,
        pytest.raises(UnsupportedCallError, match="looks at values in every call"),
    ):
        handle.record()
    with (
        attached(model, ENCODER_STAGES["tome"]) as handle,
        pytest.raises(UnsupportedCallError, match="limit=0 leaves nothing"),
    ):
        handle.record(limit=0)


@torch.inference_mode()
def test_threads_get_their_own_results(simulated: Simulated) -> None:
    model = models.clip_vision()
    pictures = [models.pixels(2, seed=seed) for seed in range(4)]
    wrong = list[int]()
    with attached(model, ENCODER_STAGES["evoprune"], keep=KEEP) as handle:
        plain = [model(one).last_hidden_state for one in pictures]
        handle.record()

        @torch.inference_mode()
        def run(number: int) -> None:
            for _ in range(6):
                found = model(pictures[number]).last_hidden_state
                if not torch.equal(found, plain[number]):
                    wrong.append(number)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert wrong == []
    assert simulated.recorded == 1
    assert simulated.replayed >= 16


@torch.no_grad()
def test_a_compiled_tower_is_one_graph_beside_the_replays(simulated: Simulated) -> None:
    torch._dynamo.reset()
    model, pictures = models.clip_vision(num_hidden_layers=2), models.pixels(2)
    with attached(model, {"strategy": "tome", "layer": 0}, keep=KEEP + 4).record():
        plain = [model(pictures).last_hidden_state for _ in range(3)][-1]
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(pictures).last_hidden_state, plain)
        assert torch.equal(model(pictures).last_hidden_state, plain)
    assert simulated.replayed == 3
