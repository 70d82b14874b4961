"""Models, samples and plans that the tests of verifying share."""

from __future__ import annotations

from typing import Any

from tokenprune.interface.loading import LoadedModel
from tokenprune.lab.data.question import Question
from tokenprune.lab.verify import Verification, samples_for, verify
from tokenprune.plan import load_plan

TOME = {"at": "encoder", "strategy": "tome", "keep": 0.5}
DROPPED = {"at": "encoder", "strategy": "random", "keep": 0.5}
FOPRU = {"at": "pre_llm", "strategy": "fopru", "keep": 0.25}
FASTV = {"at": "decoder", "strategy": "fastv", "layer": 1, "keep": 0.5}
PLANS: dict[str, list[dict[str, Any]]] = {
    "merged in the encoder": [TOME],
    "dropped in the encoder": [DROPPED],
    "dropped before the LLM": [FOPRU],
    "dropped before the LLM twice by one method": [FOPRU, {**FOPRU, "keep": 0.5}],
    "dropped in the LLM": [FASTV],
    "merged, then dropped twice": [TOME, FOPRU, FASTV],
    "dropped in steps": [{"at": "decoder", "strategy": "pyramiddrop"}],
    "dropped in steps to a number": [{"at": "decoder", "strategy": "pyramiddrop", "keep": 3}],
    "dropped twice by one method": [
        {"at": "encoder", "strategy": "tome", "keep": 0.5, "schedule": "first"},
        {"at": "encoder", "strategy": "tome", "keep": 0.75, "schedule": "last"},
        {"at": "decoder", "strategy": "fastv", "layer": 1, "keep": 0.5},
        {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.5},
    ],
    "restored, then dropped": [
        {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 0.5},
        {"at": "decoder", "strategy": "random", "layer": 0, "keep": 9},
        {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.5, "keep_text": 0.5},
    ],
}


def verified(loaded: LoadedModel, stages: list[dict[str, Any]], **rest: Any) -> Verification:
    """All rows on two samples: one picture, and two."""
    plan = load_plan({"schema_version": 1, "stages": stages, **rest})
    return verify(loaded, plan, samples(loaded), new_tokens=3, widen=True)


def samples(loaded: LoadedModel) -> list[Question]:
    found, _ = samples_for(loaded, None, ())
    return [found[0], found[2]]


def status(found: Verification) -> dict[str, str]:
    return {row.key: f"{row.status}: {row.note}" for row in found.rows if row.status != "pass"}
