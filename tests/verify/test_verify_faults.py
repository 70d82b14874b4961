"""Faults planted in the engine or the model, each of which its row must find."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.plugin import registering
from tests.verify.setting import FASTV, FOPRU, TOME, verified
from tokenprune import ScoreStrategy, StrategyParams, Tokens
from tokenprune.engine import attachment, call, images, stages
from tokenprune.engine.adapters import choose_adapter, choose_encoder
from tokenprune.engine.encoder import state as encoder_state
from tokenprune.engine.llm import entry, flow, projector_seam, rows
from tokenprune.engine.llm import model as mllm
from tokenprune.engine.llm import runner as language
from tokenprune.engine.patching import Patches
from tokenprune.interface.loading import LoadedModel
from tokenprune.interface.placement import PreLlm
from tokenprune.lab.verify import batching, run
from tokenprune.plugins.host import register_plugin

Plant = Callable[[pytest.MonkeyPatch], None]


def wrong_position_ids(patch: pytest.MonkeyPatch) -> None:
    """Survivors are renumbered though the plan doesn't say so."""
    original = language.shortened

    def shortened(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        count = found.embeds.shape[1]
        return replace(found, positions=torch.arange(count)[None])

    patch.setattr(language, "shortened", shortened)


def shifted_index(patch: pytest.MonkeyPatch) -> None:
    """Survivors are looked for one place further on."""
    for module in (entry, rows):
        patch.setattr(module, "kept", lambda pictures: images.kept(pictures).roll(1))


def lost_mask(patch: pytest.MonkeyPatch) -> None:
    """Layers aren't told about padding."""
    original = flow.Flow.layer_call

    def layer_call(self: Any, *args: Any) -> Any:
        return replace(original(self, *args), mask=None)

    patch.setattr(flow.Flow, "layer_call", layer_call)


def late_mask(patch: pytest.MonkeyPatch) -> None:
    """While decoding, the newest token isn't seen by itself."""
    original = language.continuation

    def continuation(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        mask = found.mask.clone()
        mask[:, -1] = 0
        return replace(found, mask=mask)

    patch.setattr(language, "continuation", continuation)


def leaked_override(patch: pytest.MonkeyPatch) -> None:
    """One method stays overridden after detaching."""
    original = Patches.undo

    def undo(self: Any) -> None:
        if len(self._layers) > 9:  # those of an attachment
            self._layers.pop(0)
        original(self)

    patch.setattr(Patches, "undo", undo)


def wrong_decoding_position(patch: pytest.MonkeyPatch) -> None:
    """New tokens are numbered after the shortened prompt instead of the whole one."""
    original = language.continuation

    def continuation(before: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(before, *args, **kwargs)
        return replace(found, positions=found.positions - 9)

    patch.setattr(language, "continuation", continuation)


def cross_talk(patch: pytest.MonkeyPatch) -> None:
    """Every image gets a little of the next one in its batch."""
    original = projector_seam.image_batch

    def mixed(*args: Any) -> Any:
        group = original(*args)
        return replace(group, hidden=0.9 * group.hidden + 0.1 * group.hidden.roll(1, 0))

    patch.setattr(projector_seam, "image_batch", mixed)


def lost_sizes(patch: pytest.MonkeyPatch) -> None:
    """Attention doesn't weigh merged tokens by their sizes."""
    patch.setattr(encoder_state.EncoderState, "key_bias", lambda *_: None)


def scaled_features(patch: pytest.MonkeyPatch) -> None:
    """The projector's output isn't the plain model's, even if all tokens are kept."""
    original = projector_seam.ProjectorSeam._project
    patch.setattr(projector_seam.ProjectorSeam, "_project", lambda *args: original(*args) * 1.001)


def greedy_stage(patch: pytest.MonkeyPatch) -> None:
    """A ratio is rounded up."""
    original = stages.kept
    patch.setattr(stages, "kept", lambda *args: original(*args) + 1)


def cut_prompt(patch: pytest.MonkeyPatch) -> None:
    """Generation returns the new tokens only."""
    original = mllm.MllmRunner._generate

    def generate(self: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, plain, *args, **kwargs)
        found["sequences"] = found["sequences"][:, kwargs["input_ids"].shape[1] :]
        return found

    patch.setattr(mllm.MllmRunner, "_generate", generate)


def stale_state(patch: pytest.MonkeyPatch) -> None:
    """A call that raises goes on running."""

    class Stuck:
        def __init__(self, kept: Any) -> None:
            self.kept = kept

        def get(self) -> Any:
            state = self.kept.get()
            if state is not None:
                state.thread = threading.get_ident()
            return state

        def set(self, value: Any) -> Any:
            return self.kept.set(value)

        def reset(self, token: Any) -> None:
            if sys.exc_info()[0] is None:
                self.kept.reset(token)

    patch.setattr(call, "_active", Stuck(call._active))


def shared_trace(patch: pytest.MonkeyPatch) -> None:
    """All threads have one latest trace."""
    everyone = SimpleNamespace(latest=())
    everyone.get = lambda: everyone.latest
    everyone.set = lambda pairs: setattr(everyone, "latest", pairs)
    patch.setattr(attachment, "_latest", everyone)


FAULTS: dict[str, tuple[Plant, str]] = {
    "wrong position ids": (wrong_position_ids, "prefill"),
    "a shifted index": (shifted_index, "prefill"),
    "a lost mask": (lost_mask, "padding"),
    "a mask that comes late": (late_mask, "decoding"),
    "a leaked override": (leaked_override, "detach"),
    "a wrong decoding position": (wrong_decoding_position, "decoding"),
    "cross-talk in a batch": (cross_talk, "batch"),
    "lost sizes": (lost_sizes, "encoder"),
    "scaled features": (scaled_features, "keep_all"),
    "a budget rounded up": (greedy_stage, "counts"),
    "a cut prompt": (cut_prompt, "generation"),
    "a state that stays": (stale_state, "leftovers"),
    "a shared trace": (shared_trace, "threads"),
}
STAGES = [TOME, {**FOPRU, "keep": 0.5}, FASTV]
OTHERS = {"a lost mask": [FASTV]}  # a shortened prompt goes without its padding


def alone(patch: pytest.MonkeyPatch, key: str) -> None:
    """Run one row by itself, and `counts`, in front of which the model is widened."""
    for table in ("RESTORING", "OTHERS"):
        checks = getattr(run, table)
        kept = {name: check for name, check in checks.items() if name in (key, "counts")}
        patch.setattr(run, table, kept)


@pytest.mark.parametrize("name", FAULTS)
def test_the_row_that_should_finds_the_fault(
    fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plant, key = FAULTS[name]
    with monkeypatch.context() as patch:
        plant(patch)
        alone(patch, key)
        found = verified(fresh, OTHERS.get(name, STAGES))
    assert key in {row.key for row in found.failed}, found.rows
    assert found.row(key).note or found.row(key).difference


@pytest.mark.parametrize(("own", "status"), [(2e-4, "fail"), (1.0, "does not apply")])
def test_only_differences_of_the_size_of_the_models_own_are_put_down_to_it(
    fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch, own: float, status: str
) -> None:
    """A model that answers otherwise in a batch doesn't hide a plan that does much more so."""
    cross_talk(monkeypatch)
    alone(monkeypatch, "batch")
    monkeypatch.setattr(batching, "_dense", lambda *_: own)
    assert verified(fresh, STAGES).row("batch").status == status


def test_a_row_that_raises_fails_and_the_others_go_on(
    fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("no trim today")

    monkeypatch.setattr(language, "continuation", broken)
    found = verified(fresh, [FOPRU])
    assert {row.key for row in found.failed} >= {"decoding", "generation"}
    assert "no trim today" in found.row("decoding").note
    assert {"counts", "batch", "padding", "prefill"}.isdisjoint(row.key for row in found.failed)


class Raising(ScoreStrategy[StrategyParams]):
    name = "t-raising"
    stages = (PreLlm(),)

    def score(self, tokens: Tokens) -> Tensor:
        raise ValueError("my mistake")


def test_what_a_strategy_raises_is_told_with_its_own_line(fresh: LoadedModel) -> None:
    with register_plugin(registering(Raising), "raising"):
        found = verified(fresh, [{"at": "pre_llm", "strategy": "t-raising", "keep": 9}])
    note = found.row("counts").note
    assert re.search(r"test_verify_faults\.py:\d+, in score\): my mistake\. ", note), note
    assert "_answer" not in note


def test_halves_that_are_not_the_block_are_found(
    fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = type(choose_encoder(choose_adapter(fresh.model).spec().tower))
    original = family.join

    def join(self: Any, block: Any, hidden: Any, attended: Any) -> Any:
        return original(self, block, hidden, 1.01 * attended)

    monkeypatch.setattr(family, "join", join)
    # the engine and the reference run the same halves, so only the block itself can tell
    assert {row.key for row in verified(fresh, [TOME]).failed} == {"encoder"}
