"""`tokenprune verify` passes on every family, saved and loaded with its own processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.families import checkpoints
from tests.families.cases import CASES
from tests.families.cells import LINEAR
from tests.families.plans import WAYS, decoder, plan, staged
from tests.families.test_chosen_keys import choosing
from tokenprune.interface.loading import LoadedMllm, LoadOptions
from tokenprune.lab.models import load_model
from tokenprune.lab.verify import Verification, samples_for, verify
from tokenprune.lab.verify import run as run_module
from tokenprune.lab.verify import samples as samples_module
from tokenprune.lab.verify.run import OTHERS
from tokenprune.plan import load_plan

Load = Callable[[str], LoadedMllm]
SIZES = ((64, 64), (48, 64), (64, 64), (64, 48))
"""Widths and heights of made pictures, in the order of those that a user gets."""
ITSELF = {"keep_all", "detach", "leftovers", "threads"}
"""Rows that hold a model to itself, and know nothing of its family.

What they find in a family, its cells find, too: that keeping all changes no bit, steps included,
and that a detached model is as it was (`test_cells`).
"""
WHOLE = {*WAYS.values(), "gemma4-shared"}
"""Families that meet these rows: one of each way through towers and LLMs, and one whose last layers
run on the last token alone."""


def verified(loaded: LoadedMllm, content: dict[str, Any], whole: bool = False) -> Verification:
    """The rows that hold a plan to a reference of its family, or the `whole` verification."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples_module, "MADE_SIZES", SIZES)
        samples, source = samples_for(loaded, None, ())
        one, several = samples[0], samples[2]
        found = load_plan(content)
        if not whole:
            patch.setattr(run_module, "RESTORING", {})
            others = {key: check for key, check in OTHERS.items() if key not in ITSELF}
            patch.setattr(run_module, "OTHERS", others)
        return verify(loaded, found, [one, several], source=source, new_tokens=2, widen=True)


def passed(found: Verification) -> set[str]:
    assert found.failed == [], [(row.key, row.note) for row in found.rows if row.status == "fail"]
    return {row.key for row in found.rows if row.status == "pass"}


@pytest.mark.parametrize("name", CASES)
def test_a_family_passes(name: str, load: Load) -> None:
    found = verified(load(name), staged(name, "both", 0.5), name in WHOLE)
    rows = passed(found)
    wanted = {"counts", "batch", "padding", "generation", *(ITSELF if name in WHOLE else ())}
    if name == "hunyuan_vl":  # which counts the pictures of all rows of a batch together
        wanted -= {"batch"}
        assert "without a plan" in found.row("batch").note
    assert rows >= wanted
    assert ({"prefill", "decoding"} <= rows) is (name not in LINEAR)


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl"])
def test_stages_inside_towers_give_their_features_to_the_reference(name: str, load: Load) -> None:
    inside = {"strategy": "random", "at": "encoder", "keep": 0.5}
    found = verified(load(name), plan(inside, decoder(name, 0.5)))
    assert {"prefill", "decoding"} <= passed(found)
    assert "pieces" in found.row("encoder").note
    assert "pieces" in found.row("prefill").note
    assert "isn't counted" in found.row("counts").note


def test_kept_newlines_are_in_the_reference(load: Load) -> None:
    early = {"strategy": "random", "at": "pre_llm", "keep": 6}
    found = verified(load("llava_next"), plan(early, separators="keep"))
    assert {"prefill", "decoding"} <= passed(found)


def test_linear_attention_is_why_there_is_no_reference(load: Load) -> None:
    found = verified(load("qwen3_5"), staged("qwen3_5", "pre_llm", 0.5))
    passed(found)
    assert "linear attention" in found.row("prefill").note
    assert "linear attention" in found.row("generation").note


def test_keys_that_layers_choose_are_why_there_is_no_reference(tmp_path: Path) -> None:
    """Beyond as many as they see, of which there are eight here."""
    checkpoints.save(choosing(), tmp_path)
    loaded = load_model(str(tmp_path), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    found = verified(loaded, staged("minimax_m3_vl", "both", 0.5))
    passed(found)
    assert "blocks of 8 keys" in found.row("prefill").note
    assert "blocks of 8 keys" in found.row("generation").note
    assert "padding moves the blocks" in found.row("batch").note


def test_experts_without_float64_run_as_they_were_loaded(load: Load) -> None:
    found = verified(load("qwen3_vl_moe"), staged("qwen3_vl_moe", "pre_llm", 0.5))
    passed(found)
    settings = found.data()["settings"]
    assert settings["dtypes"]["other rows"] == found.row("prefill").dtype
    assert bool(settings["not_widened"]) is (found.row("prefill").dtype == "float32")


def test_features_that_merge_are_given_to_the_reference(load: Load) -> None:
    merging = {"strategy": "prunevid", "at": "pre_llm"}
    found = verified(load("qwen2_5_vl"), {**plan(merging), "positions": "original"})
    passed(found)
    assert "prunevid" in found.row("prefill").note


def test_sizes_that_a_processor_refuses_are_not_made(load: Load) -> None:
    loaded = load("qwen2_vl")

    def prepare(pictures: Any, questions: Any) -> dict[str, Any]:
        if len({one.size for row in pictures for one in row}) > 1:
            raise ValueError("expects each tensor to be equal size")
        return loaded.prepare(pictures, questions)

    found, source = samples_for(loaded, None, ())
    assert found[0].image.size != found[1].image.size
    assert "of one size" not in source
    found, source = samples_for(replace(loaded, prepare=prepare), None, ())
    assert {one.size for one in (*found[2].image, *(row.image for row in found[:2]))} == {
        (224, 224)
    }
    assert "of one size" in source
