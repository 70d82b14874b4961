"""Real engines of the families whose pictures have sizes of their own: the ids of `attach`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.families.cases import CASES
from tests.families.checkpoints import missing
from tests.families.processors import RECIPES
from tests.vllm.conftest import Engines, attached, request

pytest.importorskip("vllm", reason="engines run in vLLM's own environment, see .ci/vllm")

TILES = {"positions": "compact", "separators": "keep"}
COMPACT = {"positions": "compact"}
GRIDS = {"positions": "original"}
FAMILIES = {
    "llava_next": TILES,
    "llava_onevision": TILES,
    "idefics3": COMPACT,
    "internvl": COMPACT,
    "mistral3": COMPACT,
    "smolvlm": COMPACT,
    "qwen2_5_vl": GRIDS,
    "qwen3_vl": GRIDS,
}
"""What plans say besides their stages."""
SIZES = {
    "internvl": ((48, 144), (96, 96), (40, 40)),
    "mistral3": ((64, 64), (64, 40), (40, 40)),
    "paddleocr_vl": ((64, 96), (80, 48), (48, 48)),
}
"""Heights and widths of pictures that are large enough to fill a block of the cache."""
CHUNKED = {"max_num_batched_tokens": 16, "max_num_seqs": 4, "enable_chunked_prefill": True}
BLOCK = {"block_size": 32}
NO_PICTURES = {**BLOCK, "limit_mm_per_prompt": {"image": 0, "video": 0}}
RANKS = {"tensor_parallel_size": 2, "mm_encoder_tp_mode": "data", "gpu_memory_utilization": 0.1}


def plan(rest: dict[str, Any], *stages: dict[str, Any]) -> dict[str, Any]:
    return {**rest, "stages": [{"at": "pre_llm", **stage} for stage in stages]}


def asked(name: str) -> list[dict[str, Any]]:
    """Prompts of two sizes, one of them again, and of several pictures."""
    picture = RECIPES[name].picture
    a, b, c = enumerate(SIZES.get(name, ((48, 64), (64, 40), (40, 40))))
    one = {"text": f"{picture}what is on the picture?", "pictures": shown(a)}
    other = {"text": f"x{picture}and why?", "pictures": shown(b)}
    two = {"text": f"{picture} or {picture}?", "pictures": shown(b, c)}
    return [one, other, two, one]


def shown(*pictures: tuple[int, tuple[int, int]]) -> list[list[int]]:
    """Seed, height and width of each."""
    return [[seed, *size] for seed, size in pictures]


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_attach(name: str, engines: Engines, folder: Callable[[str], str]) -> None:
    why = missing(CASES[name])
    if why is not None:
        pytest.skip(why)
    rest = FAMILIES[name]
    model = folder(name)
    prompts = asked(name)
    half = plan(rest, {"strategy": "divprune", "keep": 0.5})
    tile = {"strategy": "divprune", "keep": {"per_tile": 4}}
    few = plan(rest, {"strategy": "random", "keep": 0.8}, tile)
    dense, whole, unshared, chunked = engines(
        # vLLM's own classes don't know the names under which transformers 5 saves CLIP and SigLIP
        request(plan(rest) if rest is TILES else None, prompts, model, options=BLOCK),
        request(half, prompts, model, options=BLOCK, count=True, again=True),
        request(few, prompts, model, options={**BLOCK, "enable_prefix_caching": False}),
        request(half, prompts, model, options={**BLOCK, **CHUNKED}, again=True),
    )
    assert dense["ids"] == attached({}, prompts, model)
    assert whole["ids"] == whole["again"] == chunked["ids"] == chunked["again"]
    assert whole["ids"] == attached(half, prompts, model)
    assert unshared["ids"] == attached(few, prompts, model)
    assert dense["ids"] != whole["ids"] != unshared["ids"], "a plan that changes no answer"
    assert whole["cached"] > 0 < chunked["cached"], "tokens out of the prefix cache"
    assert len(whole["passes"]) == 1, "the tower sees each picture once"
    lengths = zip(dense["lengths"], whole["lengths"], unshared["lengths"], strict=True)
    assert all(a > b > c for a, b, c in lengths)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_ids_inside_a_packed_tower_are_those_of_attach(
    name: str, engines: Engines, folder: Callable[[str], str]
) -> None:
    """In chunks of a picture; Qwen3-VL's on two ranks, each of which sees some of the pictures."""
    rest = FAMILIES[name]
    model, prompts = folder(name), asked(name)
    attended = {"strategy": "fopru", "keep": 0.5}
    mixed = plan(rest, {"at": "encoder", "strategy": "evoprune", "keep": 0.6}, attended)
    restored = {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 0.5}
    others = [plan(rest, attended), plan(rest, restored, {"strategy": "divprune", "keep": 0.5})]
    options = {**BLOCK, **(RANKS if name == "qwen3_vl" else CHUNKED)}
    words = [{"text": "no picture at all?"}]
    whole, other, bare, *found = engines(
        request(mixed, prompts, model, options=BLOCK, count=True, again=True),
        request(mixed, prompts, model, options=options),
        request(mixed, words, model, options=NO_PICTURES),
        *(request(one, prompts, model, options=BLOCK) for one in others),
    )
    assert whole["ids"] == whole["again"] == other["ids"]
    expected = [attached(one, prompts, model) for one in ({}, mixed, *others)]
    assert [whole["ids"], *(one["ids"] for one in found)] == expected[1:]
    assert expected[0] not in expected[1:], "plans that change no answer"
    assert len(whole["passes"]) == 1, "the tower sees each picture once"
    assert bare["ids"] == attached({}, words, model), "an engine without a tower"


@pytest.mark.parametrize(
    ("name", "keep", "behind"),
    [
        ("internvl", 6, {"strategy": "visionzip", "keep": 6}),
        ("idefics3", 6, {"strategy": "fopru", "keep": {"per_tile": 4}}),
        ("mistral3", 0.6, {"strategy": "fopru", "keep": 6}),
    ],
)
def test_stages_inside_a_tower_whose_pictures_are_runs(
    name: str, keep: float, behind: dict[str, Any], engines: Engines, folder: Callable[[str], str]
) -> None:
    model, prompts = folder(name), asked(name)
    inside = {"at": "encoder", "strategy": "evoprune", "keep": keep}
    both = plan(COMPACT, inside, {"strategy": "fopru", "keep": 0.5})
    read = plan(COMPACT, behind)
    mixed, chunked, reading = engines(
        request(both, prompts, model, options=BLOCK, again=True),
        request(both, prompts, model, options={**BLOCK, **CHUNKED}),
        request(read, prompts, model, options={**BLOCK, "enable_prefix_caching": False}),
    )
    assert "refused" not in mixed, mixed
    expected = attached(both, prompts, model)
    assert mixed["ids"] == mixed["again"] == chunked["ids"] == expected
    assert reading["ids"] == attached(read, prompts, model)
    assert mixed["ids"] != reading["ids"]


def test_a_budget_above_a_pictures_tokens_ends_its_request_only(
    engines: Engines, folder: Callable[[str], str]
) -> None:
    picture, rest = RECIPES["qwen2_5_vl"].picture, FAMILIES["qwen2_5_vl"]
    small = {"text": f"{picture}?", "pictures": [[3, 16, 16]]}
    clip = {"text": "<|vision_start|><|video_pad|><|vision_end|>?", "clips": [[3, 4, 16, 16, 2]]}
    prompts = [asked("qwen2_5_vl")[0]]
    unmerged = {**small, "pictures": [[3, 44, 60]], "options": {"merge_size": 1}}
    many = plan(rest, {"strategy": "divprune", "keep": 20})
    (answers,) = engines(
        request(many, prompts, folder("qwen2_5_vl"), alone=[small, clip, unmerged])
    )
    assert "can't keep 20 of 4 tokens" in answers["alone"][0]
    assert "can't keep 40 of 8 tokens" in answers["alone"][1], "20 of each frame"
    assert "mm_processor_kwargs" in answers["alone"][2]
    assert answers["again"] == answers["ids"], "the engine goes on"
