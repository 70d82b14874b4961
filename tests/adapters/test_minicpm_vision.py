"""MiniCPM-V's tower by itself and in its model: blocks behind its merger, or without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.tile_runs import opened_by_mark
from torch import Tensor, nn

import tokenprune
from tests.adapters.any_size import tower
from tests.contract.cases import footprint
from tests.families.any_size import hidden, passes, tower_of
from tests.families.calls import case_of, logits
from tests.families.models import minicpm
from tests.families.plans import plan
from tests.families.test_decoder import EXACT
from tests.families.towers import PLUGIN
from tokenprune.errors import UnsupportedModelError
from tokenprune.plugins.host import register_plugin

NAME, SCENE = "minicpmv4_6", "mixed"
DROP = {"strategy": "random", "at": "encoder", "keep": 0.5}


KNOWN = {**DROP, "strategy": "t-tower-drop"}


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with register_plugin(PLUGIN, "family-towers"):
        yield


def given(**more: Any) -> dict[str, Any]:
    call = case_of(NAME, SCENE).inputs(SCENE)
    return {"pixel_values": call["pixel_values"], "target_sizes": call["target_sizes"], **more}


@pytest.mark.parametrize(("name", "merges"), [(NAME, True), (NAME, False), ("minicpmv4_7", True)])
@torch.no_grad()
def test_a_row_of_the_blocks_is_a_unit(name: str, merges: bool) -> None:
    call = given(use_vit_merger=merges)
    model = tower(name)
    dense, before = model(**call).last_hidden_state, footprint(model)
    with tokenprune.attach(model, plan({**DROP, "keep": 1.0})):
        assert torch.equal(model(**call).last_hidden_state, dense)
    with tokenprune.attach(model, plan(DROP)) as handle:
        short, images = model(**call).last_hidden_state, handle.trace.images
    assert footprint(model) == before
    sizes = (call["target_sizes"] // (2 if merges else 1)).prod(-1).tolist()
    assert [image.patches for image in images] == sizes
    assert short.shape == dense.shape
    assert int(short.any(dim=-1).sum()) == sum(image.kept for image in images) < sum(sizes)


@torch.no_grad()
def test_blocks_are_counted_behind_the_merger() -> None:
    model, seen = tower(NAME), list[int]()

    def note(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].shape[-2])

    hooks = [one.layer_norm2.register_forward_pre_hook(note) for one in model.encoder.layers]
    with tokenprune.attach(model, plan({**DROP, "layer": 0, "keep": 0.5})):
        model(**given())
    for hook in hooks:
        hook.remove()
    patches = int(given()["target_sizes"].prod(-1).sum())
    assert seen == [patches, *[patches // 4 // 2] * 4]


@pytest.mark.parametrize("how", ["config", "call"])
def test_patches_that_are_not_merged_inside_are_rows_of_units(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`downsample_mode="4x"` leaves the merger out, so that squares of patches are units."""
    model_class = case_of(NAME).model_class
    case = minicpm.MiniCpm(NAME, model_class, mode="4x")
    model = case.create(torch.float64)
    call: Any = case.inputs(SCENE, "left", torch.float64)
    if how == "call":
        model.config.downsample_mode = "16x"
        call["downsample_mode"] = "4x"
    dense, prompts = logits(model, call), case.prompts(SCENE)
    with tokenprune.attach(model, plan({**KNOWN, "keep": 1.0})):
        assert torch.equal(logits(model, call), dense)
    made: list[Sequence[Tensor]] = []
    hook = model.model.merger.register_forward_hook(lambda module, args, out: made.append(out))
    with tokenprune.attach(model, plan(KNOWN)) as handle:
        short, trace = logits(model, call), handle.trace
    shown = passes(case, prompts, trace)
    with hidden(tower_of(model), shown, monkeypatch):
        logits(model, call)
    hook.remove()
    pictures = [one for kind in shown for one in kind]
    rows, full = ([one for kind in part for one in kind] for part in (made[:2], made[2:]))
    for one, other, picture in zip(rows, full, pictures, strict=True):
        assert len(one) == len(picture.units) == 2 * len(picture.kept)
        assert float((one - other)[picture.kept].abs().max()) < EXACT
    assert float((short - dense).abs().max()) > 1e-4


def test_a_tower_without_blocks_behind_its_merger_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    config: Any = case_of(NAME).config()
    config.insert_layer_id = config.vision_config.insert_layer_id = 4
    model = transformers.MiniCPMV4_6ForConditionalGeneration(config)
    for one in (model, model.model.vision_tower):
        with pytest.raises(UnsupportedModelError, match="no block stands behind the merger"):
            tokenprune.attach(one, plan(DROP))


def test_units_that_are_no_squares_are_refused() -> None:
    transformers = pytest.importorskip("transformers")
    config: Any = case_of(NAME).config()
    config.merge_kernel_size = (1, 4)
    model = transformers.MiniCPMV4_6ForConditionalGeneration(config)
    with pytest.raises(UnsupportedModelError, match="units of 1 x 4 rows are no squares"):
        tokenprune.attach(model, plan(DROP))


def test_a_mark_in_front_of_every_overview() -> None:
    whole, part, end, word = 1, 2, 3, 4
    image = 5
    picture = [whole, image, image, end, part, image, image, end, part, image, image, end]
    ids = torch.tensor([word, *picture, *picture[:4], *picture[:4], word, *picture])
    starts = (ids == image).nonzero()[:, 0].tolist()[::2]
    begins = opened_by_mark(ids, [(start, start + 2) for start in starts])
    assert begins == [True, False, False, True, True, True, False, False]
    assert opened_by_mark(ids, []) == []
