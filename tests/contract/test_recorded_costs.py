"""What a replay costs in Python: none of it grows with the depth of the tower or with its sites."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokenprune
from tests import models
from tests.recording import Simulated
from tokenprune.engine.capturing import Replay

#: What copies what a graph left, and looks whether it is stale.
PARTS = "tokenprune.engine.copies", "tokenprune.engine.encoder.as_recorded"


class Still(Simulated):
    """A recorder whose replays do nothing."""

    def record(self, run: Callable[[], Any], device: torch.device) -> tuple[Replay, Any]:
        made = run()
        return list, made


def called(run: Callable[[], object]) -> Counter[str]:
    """How often Python functions run, by name; those of a garbage collector aren't among them."""
    seen = Counter[str]()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            seen[f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"] += 1

    gc.disable()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
        gc.enable()
    return seen


@torch.inference_mode()
def calls(strategy: str, blocks: int, keep: int) -> Counter[str]:
    model, pictures = models.clip_vision(num_hidden_layers=blocks), models.pixels(1)
    stage = {"at": "encoder", "strategy": strategy, "keep": keep}
    with tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}).record() as handle:
        for _ in range(3):
            model(pictures)
        seen = called(lambda: model(pictures))
        assert any("replayed from CUDA graphs" in note for note in handle.report().notes)
        assert len(handle.trace.records) >= blocks // 3
    return seen


@pytest.mark.parametrize("strategy", ["evoprune", "tome", "uniform"])
def test_a_replay_calls_no_more_functions_in_a_deeper_tower(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenprune.engine.encoder.recording.new_recorder", Still)
    shallow, deep = calls(strategy, 3, 33), calls(strategy, 12, 20)
    assert (deep - shallow).total() < 9  # one of each further block, or site
    looks = [count for name, count in deep.items() if name.startswith(PARTS)]
    assert sum(looks) <= 40
