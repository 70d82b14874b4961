"""Real engines of further families, all in one process: the ids of `attach`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.vllm.conftest import attached, engines_in, request
from tests.vllm.test_families import BLOCK, CHUNKED, COMPACT, asked, plan

pytest.importorskip("vllm", reason="engines run in vLLM's own environment, see .ci/vllm")

HALF = plan(COMPACT, {"strategy": "divprune", "keep": 0.5})
FEW = plan(
    COMPACT, {"strategy": "random", "keep": 0.8}, {"strategy": "divprune", "keep": {"per_tile": 4}}
)
INSIDE = plan(
    COMPACT,
    {"at": "encoder", "strategy": "evoprune", "keep": 0.6},
    {"strategy": "fopru", "keep": 0.5},
)


@dataclass(frozen=True)
class Served:
    """Prompts of a family, and plans with options of the engines that run them."""

    prompts: list[dict[str, Any]]
    runs: list[tuple[dict[str, Any], dict[str, Any]]]


UNSHARED = {"enable_prefix_caching": False}
FAMILIES = {
    "llava_pixtral": Served(asked("llava_pixtral"), [(INSIDE, CHUNKED), (FEW, UNSHARED)]),
}


@pytest.fixture(scope="module")
def answers(
    folder: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What the engines of all families answer, run by run."""
    requests = [
        request(one, served.prompts, folder(name), options={**BLOCK, **options}, again=True)
        for name, served in FAMILIES.items()
        for one, options in served.runs
    ]
    found = iter(engines_in(tmp_path_factory.mktemp("further"), *requests))
    return {name: [next(found) for _ in served.runs] for name, served in FAMILIES.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_attach(
    name: str, answers: dict[str, list[dict[str, Any]]], folder: Callable[[str], str]
) -> None:
    prompts, runs = FAMILIES[name].prompts, FAMILIES[name].runs
    dense, *expected = (attached(one, prompts, folder(name)) for one in ({}, *(p for p, _ in runs)))
    for one, ids, (_, options) in zip(answers[name], expected, runs, strict=True):
        assert one.get("ids") == one.get("again") == ids, one
        assert ids != dense, "a plan that changes no answer"
        assert (one["cached"] > 0) == (options is not UNSHARED), "tokens out of the prefix cache"
