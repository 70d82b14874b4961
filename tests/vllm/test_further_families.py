"""Real engines of further families, all in one process: the ids of `attach`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.families.processors import RECIPES
from tests.vllm.conftest import attached, engines_in, request
from tests.vllm.test_families import BLOCK, CHUNKED, COMPACT, TILES, asked, plan

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
TILED = (
    plan(TILES, {"strategy": "divprune", "keep": 0.5}),
    plan(
        TILES,
        {"strategy": "random", "keep": 0.8},
        {"strategy": "divprune", "keep": {"per_tile": 4}},
    ),
)
FRAMES = plan(TILES, {"strategy": "random", "keep": 0.8}, {"strategy": "vidcom2", "keep": 0.5})


@dataclass(frozen=True)
class Served:
    """Prompts of a family, and plans with options of the engines that run them.

    Each of the prompts in `refused` is refused by itself.
    """

    prompts: list[dict[str, Any]]
    runs: list[tuple[dict[str, Any], dict[str, Any]]]
    refused: tuple[dict[str, Any], ...] = ()


def renumbered() -> list[dict[str, Any]]:
    """The first prompt's picture as a second one, too: a number stands in front of each."""
    prompts = asked("minicpmv4_6")
    one, _, two, _ = prompts
    again = {**two, "pictures": [two["pictures"][1], *one["pictures"]]}
    return [*prompts, again]


def clips(name: str) -> list[dict[str, Any]]:
    """Prompts of clips of two lengths, one of them again, and where it is served of a picture."""
    long, short, video = [3, 6, 40, 40, 2], [4, 3, 40, 64, 2], RECIPES[name].clip
    one = {"text": f"{video} what is in it?", "clips": [long]}
    other = {"text": f"x{video} and why?", "clips": [short]}
    both = {"text": f"{video} or {RECIPES[name].picture}?", "clips": [short]}
    both["pictures"] = [[1, 64, 40]]
    return [one, other, *([both] if name == "llava_onevision" else []), one]


def resized(name: str) -> dict[str, Any]:
    """The first prompt, whose picture gets another size than places are counted for."""
    return {**asked(name)[0], "options": {"size": {"longest_edge": 24}}}


UNSHARED = {"enable_prefix_caching": False}
ONE_CLIP, MIXED = ({"limit_mm_per_prompt": one} for one in ({"video": 1}, {"image": 1, "video": 1}))
FAMILIES = {
    "llava_pixtral": Served(
        asked("llava_pixtral"), [(INSIDE, CHUNKED), (FEW, UNSHARED)], (resized("llava_pixtral"),)
    ),
    "granite4_vision": Served(
        asked("granite4_vision"), [(TILED[0], CHUNKED), (TILED[1], UNSHARED)]
    ),
    "minicpmv4_6": Served(renumbered(), [(HALF, CHUNKED), (FEW, UNSHARED)]),
    "llava_next_video": Served(clips("llava_next_video"), [(FRAMES, {**CHUNKED, **ONE_CLIP})]),
    "llava_onevision": Served(clips("llava_onevision"), [(FRAMES, {**CHUNKED, **MIXED})]),
}


@pytest.fixture(scope="module")
def answers(
    folder: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What the engines of all families answer, run by run."""
    requests = [
        request(
            one,
            served.prompts,
            folder(name),
            options={**BLOCK, **options},
            again=True,
            alone=served.refused,
        )
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
        assert all("mm_processor_kwargs" in why for why in one["alone"])
        assert (one["cached"] > 0) == (options is not UNSHARED), "tokens out of the prefix cache"
