import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.ipcv import IPCV
from torch import Tensor

from tests.strategies.cases import axis_vectors, budget, make_tokens
from tokenprune.errors import LayerError
from tokenprune.interface.reduction import Reconstruction, Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget

Vectors = list[list[float]]


def reduce(hidden: Tensor, previous: Tensor, keep: int, **params: Any) -> Reduction:
    tokens = make_tokens(hidden, signals={Signal.PREVIOUS_HIDDEN: previous})
    return IPCV.from_params(**params).reduce(tokens, budget(tokens, keep))


def memory_of(answer: Reduction) -> Reconstruction:
    assert answer.reconstruction is not None
    return answer.reconstruction


def oracle_kept(h: Vectors, previous: Vectors, keep: int) -> list[int]:
    moved = [math.dist(a, b) for a, b in zip(h, previous, strict=True)]
    return sorted(sorted(range(len(h)), key=lambda i: (-moved[i], i))[:keep])


def oracle_full(h: Vectors, kept: list[int], now: Vectors, neighbours: int) -> Vectors:
    delta = {i: [a - b for a, b in zip(now[k], h[i], strict=True)] for k, i in enumerate(kept)}
    rows = []
    for i, state in enumerate(h):
        if i in delta:
            rows.append(now[kept.index(i)])
            continue
        near = sorted(kept, key=lambda j: (math.dist(state, h[j]), j))[:neighbours]
        mean = [sum(delta[j][d] for j in near) / len(near) for d in range(len(state))]
        rows.append([s + m for s, m in zip(state, mean, strict=True)])
    return rows


@given(st.integers(0, 10**6), st.integers(2, 16), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=40)
def test_against_loops(seed: int, count: int, neighbours: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, count))
    torch.manual_seed(seed)
    hidden, previous = torch.randn(2, count, 4), torch.randn(2, count, 4)
    answer = reduce(hidden, previous, keep, neighbours=neighbours)
    assert answer.anchor is not None
    now = torch.randn(2, keep, 4)
    full = memory_of(answer).full(now)
    for sample in range(2):
        h = hidden[sample].tolist()
        kept = oracle_kept(h, previous[sample].tolist(), keep)
        assert answer.anchor[sample].tolist() == kept
        wanted = oracle_full(h, kept, now[sample].tolist(), neighbours)
        torch.testing.assert_close(full[sample], torch.tensor(wanted), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_ties_against_loops(seed: int) -> None:
    hidden = axis_vectors(12, 3, seed)
    previous = axis_vectors(12, 3, seed + 100)
    answer = reduce(hidden[None], previous[None], 7, neighbours=2)
    kept = oracle_kept(hidden.tolist(), previous.tolist(), 7)
    assert answer.anchor is not None
    assert answer.anchor[0].tolist() == kept
    now = torch.arange(21.0).view(1, 7, 3)
    wanted = oracle_full(hidden.tolist(), kept, now[0].tolist(), 2)
    torch.testing.assert_close(memory_of(answer).full(now)[0], torch.tensor(wanted))


def test_unmoved_tokens_come_back_bit_for_bit() -> None:
    torch.manual_seed(0)
    hidden, previous = torch.randn(2, 9, 4), torch.randn(2, 9, 4)
    for kind in (torch.float32, torch.bfloat16):
        states = hidden.to(kind)
        answer = reduce(states, previous.to(kind), 4)
        full = memory_of(answer).full(answer.gather(states))
        assert torch.equal(full, states)


def test_kept_rows_pass_through_and_keep_all_is_the_identity() -> None:
    torch.manual_seed(0)
    hidden, previous, now = torch.randn(1, 6, 3), torch.randn(1, 6, 3), torch.randn(1, 6, 3)
    assert torch.equal(memory_of(reduce(hidden, previous, 6)).full(now), now)
    answer = reduce(hidden, previous, 2)
    assert torch.equal(answer.gather(memory_of(answer).full(now[:, :2])), now[:, :2])


def test_the_answer_says_how_long_attention_is_stabilised() -> None:
    hidden = torch.randn(1, 6, 3)
    memory = memory_of(reduce(hidden, hidden * 2, 3, stabilise=2))
    assert (memory.blocks, memory.restore) == (2, True)


@pytest.mark.parametrize("layer", [0, 1])
def test_early_layers_are_refused(layer: int) -> None:
    with pytest.raises(LayerError, match="needs the input of the block before"):
        IPCV.from_params().check(Site("encoder", layer, 12), Budget(16, 8), (1, 4, 4))


def test_layer_two_is_the_first_allowed() -> None:
    IPCV.from_params().check(Site("encoder", 2, 12), Budget(16, 8), (1, 4, 4))
