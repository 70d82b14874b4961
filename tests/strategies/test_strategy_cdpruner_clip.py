"""`cdpruner_clip` against loops that compute a determinant for every candidate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.cdpruner_clip import CDPrunerClip
from torch import Tensor
from torch.nn.functional import normalize

from tests.strategies.cases import SITES, budget, cosine, make_tokens
from tests.strategies.dpp_oracle import NARROW, greedy_by_loops
from tokenprune.interface.signals import Signal

Rows = list[list[float]]


def kept(hidden: Tensor, shown: Tensor, pieces: Tensor, keep: int) -> list[list[int]]:
    signals = {Signal.TOWER_TOKENS: shown, Signal.TOWER_PIECES: pieces}
    tokens = make_tokens(hidden, site=SITES["pre_llm"], signals=signals)
    found = CDPrunerClip.from_params(text_tower="any").reduce(tokens, budget(tokens, keep)).anchor
    assert found is not None
    return found.tolist()


def by_loops(hidden: Rows, shown: Rows, pieces: Rows, keep: int) -> tuple[list[int], float]:
    relevance = [-sum(cosine(token, one) for one in pieces) / len(pieces) for token in shown]
    least, most = min(relevance), max(relevance)
    quality = [(r - least + 1e-6) / (most - least) for r in relevance]
    count = range(len(hidden))
    kernel = [
        [quality[i] * cosine(hidden[i], hidden[j]) * quality[j] for j in count] for i in count
    ]
    return greedy_by_loops(kernel, keep)


@given(st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=30)
def test_against_determinants(seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    count = data.draw(st.integers(2, 12))
    keep = data.draw(st.integers(1, min(count - 1, 6)))
    hidden, shown = torch.randn(2, count, 16), torch.randn(2, count, 8)
    pieces = normalize(torch.randn(2, 3, 8), dim=-1)
    pieces[1, 1:] = 0  # a short question beside a long one
    found = kept(hidden, shown, pieces, keep)
    for sample, many in enumerate((3, 1)):
        want, margin = by_loops(
            hidden[sample].tolist(), shown[sample].tolist(), pieces[sample, :many].tolist(), keep
        )
        assert len(found[sample]) == keep
        if margin > NARROW:
            assert found[sample] == want


def test_what_is_least_like_the_question_stays_first() -> None:
    shown = torch.eye(3)[None]
    pieces = normalize(torch.tensor([[[1.0, 0.0, -1.0]]]), dim=-1)
    assert kept(torch.eye(3)[None], shown, pieces, 1) == [[2]]
    assert kept(torch.eye(3)[None], shown, pieces, 2) == [[1, 2]]


def test_tokens_that_are_all_alike_are_equally_relevant() -> None:
    shown, pieces = torch.ones(2, 6, 4), torch.eye(4)[None, :1].expand(2, -1, -1)
    assert kept(torch.ones(2, 6, 4), shown, pieces, 3) == [[0, 1, 2]] * 2
    different = kept(torch.eye(6)[None], shown[:1], pieces[:1], 3)
    assert different == [[0, 1, 2]]


def test_keeping_all_changes_nothing() -> None:
    signals = {Signal.TOWER_TOKENS: torch.ones(1, 4, 2), Signal.TOWER_PIECES: torch.ones(1, 1, 2)}
    tokens = make_tokens(torch.randn(1, 4, 3), site=SITES["pre_llm"], signals=signals)
    answer = CDPrunerClip.from_params(text_tower="any").reduce(tokens, budget(tokens, 4))
    assert not answer.changes


@pytest.mark.parametrize("empty", ["text_tower", "tokenizer"])
def test_empty_names_are_refused(empty: str) -> None:
    with pytest.raises(ValueError, match=empty):
        CDPrunerClip.from_params(**{"text_tower": "any", empty: ""})
