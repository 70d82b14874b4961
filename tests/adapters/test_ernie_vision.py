"""ERNIE 4.5 VL's tower, whose units span two frames of a clip, alone and in front of its model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.adapters.packed_oracle import turned
from tests.contract.compiling import assert_one, assert_same, one_graph
from tests.families.calls import case_of, logits
from tests.families.models.common import PATCH
from tests.families.plans import plan
from tests.families.test_tower_signals import Look
from tests.packed import plan as inside
from tests.plugin import registering
from tokenprune import Signal
from tokenprune.errors import UnsupportedCallError
from tokenprune.plugins.host import register_plugin

NAME, SQUARE = "ernie4_5_vl_moe", 4
PICTURES, CLIPS = ((1, 4, 8), (1, 6, 4)), ((4, 4, 6), (2, 6, 4))
"""(t, h, w) in patches."""
NEAR = {"atol": 1e-5, "rtol": 1e-5}
STAGES = (
    {"strategy": "tome", "layer": 0, "keep": 0.7},
    {"strategy": "fopru", "layer": 1, "keep": 0.5},
)


def tower(dtype: torch.dtype = torch.float32) -> Any:
    return case_of(NAME).create(dtype).model.vision_tower


def call(grids: tuple[tuple[int, int, int], ...], dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    count = sum(t * h * w for t, h, w in grids)
    rows = torch.randn(count, 3 * PATCH * PATCH, generator=generator, dtype=dtype)
    return {"hidden_states": rows, "grid_thw": torch.tensor(grids)}


@torch.no_grad()
def test_a_unit_of_a_clip_leaves_with_its_rows_of_both_frames() -> None:
    model, given = tower(torch.float64), call(CLIPS, torch.float64)
    drop = {"strategy": "uniform", "layer": 3, "keep": 0.5}
    full = model(**given).last_hidden_state
    with tokenprune.attach(model, inside(drop)) as handle:
        left, trace = model(**given).last_hidden_state, handle.trace
    assert trace.grids == [(2, 2, 3), (1, 3, 2)]
    start = 0
    for (frames, height, width), image in zip(CLIPS, trace.images, strict=True):
        area, kept = height * width // SQUARE, image.steps[-1].anchor.tolist()
        assert 2 * len(kept) == frames // 2 * area
        for unit in range(frames // 2 * area):
            for frame in range(2):
                row = start + (2 * (unit // area) + frame) * area * SQUARE + unit % area * SQUARE
                own = slice(row, row + SQUARE)
                assert bool(left[own].any(dim=-1).all()) == (unit in kept)
                if unit not in kept:
                    assert not left[own].any()
        start += frames * height * width
    assert left.shape == full.shape


@pytest.mark.parametrize("scene", ["several", "video"])
@torch.no_grad()
def test_units_get_the_values_of_their_own_rows(scene: str) -> None:
    """Attention that a unit receives is the mean over its rows, none of it from other frames."""
    case = case_of(NAME)
    model, given = case.create(torch.float64), case.inputs(scene, dtype=torch.float64)
    found: dict[str, Any] = {}
    last = model.model.vision_tower.blocks[-1]
    hook = last.register_forward_hook(
        lambda module, args, kwargs, out: found.update(into=args[0], given=kwargs, out=out),
        with_kwargs=True,
    )
    logits(model, given)
    hook.remove()
    heads = last.attn.num_heads
    query, key, _ = last.attn.qkv(last.norm1(found["into"])).view(-1, 3, heads, 8).unbind(1)
    query, key = (
        turned(part, *(one[:, None] for one in found["given"]["position_embeddings"]))
        for part in (query, key)
    )
    frame = torch.bucketize(torch.arange(len(query)), found["given"]["cu_seqlens"][1:], right=True)
    same = frame[:, None] == frame
    weights = torch.einsum("qhd,khd->hqk", query, key) / 8**0.5
    weights = weights.masked_fill(~same, -torch.inf).softmax(-1)
    with (
        register_plugin(registering(Look), "ernie-looks"),
        tokenprune.attach(model, plan({"strategy": "t-tower-look", "at": "pre_llm", "keep": 1.0})),
    ):
        Look.seen.clear()
        logits(model, given)
    grids = given["image_grid_thw" if scene == "several" else "video_grid_thw"].tolist()
    start, waiting = 0, {tuple(one.grid): list(range(len(one.index))) for one in Look.seen}
    for frames, height, width in grids:
        span = 1 if frames == 1 else 2
        area = height * width // SQUARE
        rows = torch.arange(start, start + frames * height * width)
        rows = rows.view(frames // span, span, area, SQUARE).transpose(1, 2).flatten(2)
        start += frames * height * width
        grid = (frames // span, height // 2, width // 2)
        (tokens,) = [one for one in Look.seen if one.grid == grid]
        at = waiting[grid].pop(0)
        shown = {str(name): value[at].double() for name, value in tokens.signals.items()}
        torch.testing.assert_close(
            shown[Signal.HIDDEN.name], found["out"][rows].flatten(2).flatten(0, 1), **NEAR
        )
        received = []
        for own in rows.flatten(1):  # the rows of units that stand beside each other
            inside = weights[:, own][:, :, own].mean(dim=(0, 1))
            received.append(inside.view(area, -1).mean(dim=1))
        torch.testing.assert_close(
            shown[Signal.ATTENTION_RECEIVED.name], torch.cat(received), **NEAR
        )


@torch.no_grad()
def test_what_makes_a_row_of_units_runs_on_those_that_are_left() -> None:
    case = case_of(NAME)
    model, given = case.create(), case.inputs("mixed")
    rows: list[int] = []
    hook = model.model.resampler_model.spatial_linear.register_forward_hook(
        lambda module, args, output: rows.append(len(output))
    )
    dense = logits(model, given)
    whole, rows[:] = [*rows], []
    half = {"strategy": "uniform", "at": "encoder", "keep": 0.5}
    with tokenprune.attach(model, plan(half)) as handle:
        short = logits(model, given)
        units = [len(image.steps[-1].anchor) for image in handle.trace.images]
    hook.remove()
    pictures = len(given["image_grid_thw"])
    assert rows == [sum(units[:pictures]), 2 * sum(units[pictures:])]
    assert all(few < all_ for few, all_ in zip(rows, whole, strict=True))
    assert not torch.equal(short, dense)


@torch.no_grad()
def test_a_tower_that_merges_and_drops_is_one_graph() -> None:
    """Clips; of pictures it packs as Qwen's towers do."""
    torch._dynamo.reset()
    model, given = tower(), call(CLIPS, torch.float32)
    model.blocks = model.blocks[:2]
    with tokenprune.attach(model, inside(*STAGES)):
        plain = model(**given)
        compiled, counter = one_graph(model)
        assert_same(compiled(**given), plain)
    assert_one(counter)


@pytest.mark.parametrize("grids", [((3, 4, 4),), ((1, 4, 4), (2, 4, 4))], ids=["odd", "beside"])
@torch.no_grad()
def test_clips_of_odd_numbers_of_frames_and_pictures_beside_clips(grids: Any) -> None:
    model, given = tower(), call(grids, torch.float32)
    with (
        tokenprune.attach(model, inside(STAGES[0])),
        pytest.raises(UnsupportedCallError, match=r"pictures or clips of \[.*\] frames"),
    ):
        model(**given)
    model(**given)


@torch.no_grad()
def test_experts_are_told_which_tokens_are_left() -> None:
    """Pictures and the marks around them have experts of their own; all marks stay."""
    case = case_of(NAME)
    model, given = case.create(torch.float64), case.inputs("one", "none", torch.float64)
    seen: list[Tensor] = []
    late = model.model.language_model.layers[3].mlp
    hook = late.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    stage = {"strategy": "uniform", "at": "decoder", "layer": 2, "keep": 0.5}
    with tokenprune.attach(model, plan(stage)) as handle:
        logits(model, given)
        kept = sum(image.kept for image in handle.trace.images)
    hook.remove()
    kinds = given["moe_mm_token_type_ids"]
    marks = int((kinds > 0).sum() - (given["mm_token_type_ids"] > 0).sum())
    assert int((seen[0] > 0).sum()) == kept + marks
    assert int((seen[0] == 0).sum()) == int((kinds == 0).sum())
