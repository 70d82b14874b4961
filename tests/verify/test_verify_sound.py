"""A sound model passes, and every row says what it didn't cover."""

from __future__ import annotations

import json

import pytest
import torch

from tests.verify.setting import FASTV, FOPRU, PLANS, TOME, status, verified
from tokenprune.interface.loading import LoadedModel
from tokenprune.lab.verify import Verification
from tokenprune.testing.plain.footprint import changes, footprint

ON_WEIGHTS = ("merged, then dropped twice", "restored, then dropped")
"""Plans that meet every kind of stage and every row; on trained weights a run takes seconds."""


def passes(found: Verification, name: str) -> None:
    assert found.failed == []
    skipped = status(found)
    encoder = any(stage["at"] == "encoder" for stage in PLANS[name])
    restored = name == "restored, then dropped"
    assert ("encoder" in skipped) is (restored or not encoder)
    assert set(skipped) <= {"encoder"}
    assert ("own visual features" in found.row("prefill").note) is restored


@pytest.mark.parametrize("name", ON_WEIGHTS)
def test_the_reference_model_passes(reference: LoadedModel, name: str) -> None:
    passes(verified(reference, PLANS[name]), name)


@pytest.mark.parametrize("name", PLANS)
def test_a_random_model_passes(tiny: LoadedModel, name: str) -> None:
    passes(verified(tiny, PLANS[name]), name)


def test_the_model_is_as_it_was(tiny: LoadedModel) -> None:
    verified(tiny, [FOPRU])
    before = footprint(tiny.model)
    weights = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    verified(tiny, [TOME, FASTV])
    assert changes(before, footprint(tiny.model)) == []
    after = tiny.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(after[name].dtype == value.dtype for name, value in weights.items())
    assert all(torch.equal(after[name], value) for name, value in weights.items())


def test_renumbered_positions_have_no_reference(tiny: LoadedModel) -> None:
    found = verified(tiny, [FOPRU], positions="compact")
    assert found.failed == []
    skipped = status(found)
    assert set(skipped) == {"encoder", "prefill", "decoding"}
    assert "compact" in skipped["decoding"]
    assert "only that the prompt comes first" in found.row("generation").note


def test_new_tokens_are_taken_from_the_pruned_run(tiny: LoadedModel) -> None:
    merging = {"at": "pre_llm", "strategy": "vscan", "keep": 9, "params": {"window": 2}}
    found = verified(tiny, [merging])
    assert found.failed == []
    for key in ("prefill", "decoding", "generation"):
        assert "vscan" in found.row(key).note


def test_the_frames_of_a_video(tiny: LoadedModel) -> None:
    found = verified(tiny, [FOPRU, FASTV], images="frames")
    assert found.failed == []
    assert set(status(found)) == {"encoder"}


def test_the_record_is_json_and_complete(tiny: LoadedModel) -> None:
    data = json.loads(json.dumps(verified(tiny, [FOPRU]).data(), allow_nan=False))
    assert data["passed"] is True
    assert len(data["plan"]["sha256"]) == len(data["model"]["sha256"]) == 64
    assert data["environment"]["packages"]["torch"]
    measured = [row for row in data["rows"] if row["status"] == "pass"]
    assert all(row["difference"] <= row["tolerance"] for row in measured)
    assert all(row["compared"] and row["dtype"] for row in measured)
