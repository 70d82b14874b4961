"""Further ways through packed towers: kernels for packed sequences, whole clips, other devices."""

from __future__ import annotations

from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import tokenprune
from tests.adapters.packed_oracle import How, Loop
from tests.packed import GRIDS, MEMBERS, call, plan, run, tower
from tokenprune.engine.encoder.packed_state import PackedState
from tokenprune.engine.stages import EncoderSchedule
from tokenprune.interface.packed import Packing
from tokenprune.interface.trace import Trace

ONCE = {"strategy": "uniform", "layer": 1, "keep": 0.3}
MERGED = {
    **{"strategy": "tome", "layers": [0, 1], "keep": 0.4},
    "params": {"proportional_attention": False},
}
TEMPORAL = {"strategy": "evoprune", "layers": [0, 3], "params": {"temporal": True}}


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], int]]:
    """Put an attention for packed sequences in place of FlashAttention; the segments it was given.

    The library calls it as it calls the kernels: one sequence, borders, and the longest segment.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen: list[tuple[list[int], int]] = []

    def varlen(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **given: Any
    ) -> Any:
        borders, longest = given["cu_seq_lens_q"], given["max_length_q"]
        assert borders.dtype == torch.int32
        assert torch.equal(borders, given["cu_seq_lens_k"])
        sizes = borders.diff().tolist()
        assert sum(sizes) == query.shape[2]
        assert min(sizes) > 0
        assert max(sizes) <= longest
        seen.append((sizes, longest))
        parts = zip(*(part.split(sizes, dim=2) for part in (query, key, value)), strict=True)
        made = torch.cat([scaled_dot_product_attention(*part) for part in parts], dim=2)
        return made.transpose(1, 2), None

    varlen.__module__ = "transformers.integrations"  # a user's own would be refused
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_like", varlen)
    return seen


@pytest.mark.parametrize("stage", [ONCE, MERGED], ids=["drop", "merge"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_kernels_get_the_borders_of_what_is_left(
    family: str, stage: dict[str, Any], lengths: list[tuple[list[int], int]]
) -> None:
    model, given = tower(family), call()
    with tokenprune.attach(model, plan(stage)):
        expected = run(model, given)
    config, before = model.config, model.config._attn_implementation
    config._attn_implementation_internal = "flash_like"
    try:
        with tokenprune.attach(model, plan(stage)):
            found = run(model, given)
    finally:
        config._attn_implementation_internal = before
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    counts = [len(sizes) for sizes, _ in lengths]
    # the others are split: there the engine attends
    assert len(counts) == len(model.blocks) - (1 if stage is ONCE else 2)
    if stage is ONCE and family == "qwen2_5_vl":
        # block 2 has windows as block 0 has, and some of them are empty behind the cut
        assert counts[1] < counts[0]


def test_clips_merge_across_frames_where_a_strategy_spans_them() -> None:
    model, given = tower("qwen2_5_vl", torch.float64), call(dtype=torch.float64)
    with tokenprune.attach(model, plan({**TEMPORAL, "keep": 0.5})) as handle:
        short = run(model, given)
    trace = handle.trace
    assert [image.kept for image in trace.images] == [
        t * h * w // MEMBERS // 2 for t, h, w in GRIDS
    ]
    last = trace.image(3).steps[-1]
    frame = last.anchor // 10
    assert torch.bincount(frame).tolist() == [5, 5], "every frame gives up equally many"
    own = torch.arange(20) // 10
    assert bool((frame[last.assignment] != own).any()), "and some went into the other frame"
    expected = Loop(model, given, trace, How(biased=True)).run()
    assert float((short[0] - expected[0]).abs().max()) < 1e-9


def test_blocks_may_write_over_the_states_that_they_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As vLLM's do on a GPU; what entered the block before is read at block 2."""
    model, given = tower("qwen3_vl"), call(GRIDS[:1])
    stage = {"strategy": "ipcv", "layer": 2, "keep": 0.5}
    with tokenprune.attach(model, plan(stage)):
        expected = run(model, given)

    def writing_over(block: Any) -> Any:
        plain = block.forward

        @wraps(plain)
        def forward(hidden: Tensor, **named: Any) -> Tensor:
            made: Tensor = plain(hidden.clone(), **named)
            hidden.zero_()
            return made

        return forward

    for block in model.blocks:
        monkeypatch.setattr(block, "forward", writing_over(block))
    with tokenprune.attach(model, plan(stage)):
        assert torch.equal(run(model, given)[0], expected[0])


def test_a_pass_follows_its_states_to_another_device() -> None:
    packing = Packing([(1, 2, 3), (2, 1, 2)], MEMBERS)
    layout = EncoderSchedule([], 2, (1, 2, 3))
    state = PackedState.begin(packing, layout, Trace(), 0, torch.zeros(packing.units, 8))
    state.move(torch.device("meta"))
    tensors = [state.order.place, state.order.back]
    tensors += [one for stack in state.stacks for one in (stack.state.index, stack.state.size)]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert state.untouched


def test_the_sequence_and_its_stacks_are_each_others_inverse() -> None:
    """Units of pictures of three grids, in an order of their own, some of them gone."""
    grids = [(1, 2, 3), (1, 1, 2), (1, 2, 3), (2, 1, 2)]
    place = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    packing = Packing(grids, 2, place)
    layout = EncoderSchedule([], 2, (1, 2, 3))
    state = PackedState.begin(packing, layout, Trace(), 0, torch.zeros(packing.units, 8))
    rows = torch.arange(36.0)[:, None].expand(-1, 3)
    parts = state.order.unpack(rows)
    assert [part.shape for part in parts] == [(2, 6, 6), (1, 2, 6), (2, 2, 6)]
    numbers = [[0, 8], [6], [14, 16]]
    for part, firsts in zip(parts, numbers, strict=True):
        for picture, first in zip(part, firsts, strict=True):
            for unit, states in enumerate(picture):
                start = 2 * int(place[first + unit])
                assert states.view(2, 3)[:, 0].tolist() == [start, start + 1]
    assert torch.equal(state.order.pack(parts), rows)
    mine = state.stacks[0].state
    mine.index = torch.tensor([[0, 2, 5], [1, 2, 3]])
    state.reorder()
    picked = parts[0].gather(1, mine.index[..., None].expand(-1, -1, 6))
    left = state.order.pack([picked, *parts[1:]])
    assert left[:, 0].tolist() == sorted(left[:, 0].tolist())
    assert state.order.rows.tolist() == left[:, 0].tolist()
    means = state.order.means(left[:, 0])
    assert torch.equal(means[0], picked.view(2, 3, 2, 3)[..., 0].mean(-1))
