import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenprune.ops import attention_margins, attention_received, attention_row, attention_rows
from tokenprune.ops.attention_received import reference


def naive(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, skip: int
) -> tuple[Tensor, Tensor]:
    """What tokens receive and what they give, weight by weight."""
    batch, heads, length, _ = query.shape
    received, given = torch.zeros(2, batch, length - skip)
    for b in range(batch):
        for h in range(heads):
            for i in range(skip, length):
                logits = [float(query[b, h, i] @ key[b, h, j]) * scale for j in range(length)]
                if bias is not None:
                    logits = [x + float(bias[b, j]) for j, x in enumerate(logits)]
                mass = sum(math.exp(x) for x in logits)
                for j in range(skip, length):
                    share = math.exp(logits[j]) / mass / heads / (length - skip)
                    received[b, j - skip] += share
                    given[b, i - skip] += share
    return received, given


@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 9), st.integers(0, 3), st.booleans())
@settings(deadline=None, max_examples=15)
def test_against_loops(seed: int, heads: int, length: int, skip: int, biased: bool) -> None:
    torch.manual_seed(seed)
    query, key = torch.randn(2, 2, heads, length, 4).unbind()
    bias = torch.randn(2, length) if biased else None
    skip = min(skip, length - 1)
    got = attention_margins(query, key, bias=bias, scale=0.7, skip=skip)
    torch.testing.assert_close(got, naive(query, key, bias, 0.7, skip), rtol=1e-4, atol=1e-5)
    assert torch.equal(got[0], attention_received(query, key, bias=bias, scale=0.7, skip=skip))


def test_all_weight_is_received_somewhere() -> None:
    query, key = torch.randn(2, 3, 4, 21, 8).unbind()
    torch.testing.assert_close(attention_received(query, key).sum(1), torch.ones(3))
    assert (attention_received(query, key, skip=1).sum(1) < 1).all()


@pytest.mark.parametrize("budget", [1, 40, 400])
def test_blocks_make_no_difference(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = torch.randn(2, 2, 3, 19, 8).unbind()
    whole = attention_margins(query, key, skip=2)
    monkeypatch.setattr(reference, "_BLOCK_CPU", budget)
    torch.testing.assert_close(attention_margins(query, key, skip=2), whole)


def test_a_batch_gives_what_its_samples_give() -> None:
    query, key = torch.randn(2, 5, 4, 33, 8).unbind()
    together = attention_margins(query, key, skip=1)
    for b in range(5):
        alone = attention_margins(query[b : b + 1], key[b : b + 1], skip=1)
        assert all(torch.equal(a, t[b : b + 1]) for a, t in zip(alone, together, strict=True))


def test_half_precision_inputs_have_a_float32_softmax() -> None:
    query, key = torch.randn(2, 1, 2, 15, 8).bfloat16().unbind()
    got = attention_received(query, key)
    assert got.dtype == torch.float32
    assert torch.equal(got, attention_received(query.float(), key.float()))


def test_autocast_does_not_lower_the_precision() -> None:
    query, key = torch.randn(2, 1, 2, 15, 8).unbind()
    plain = attention_received(query, key), attention_row(query, key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = attention_received(query, key), attention_row(query, key)
    assert torch.equal(plain[0], cast[0])
    assert torch.equal(plain[1], cast[1])


def test_hidden_keys_receive_nothing_and_hiding_all_gives_no_nan() -> None:
    query, key = torch.randn(2, 2, 2, 9, 4).unbind()
    bias = torch.zeros(2, 9)
    bias[0, 4], bias[1] = -torch.inf, -torch.inf
    got, row = attention_received(query, key, bias=bias), attention_row(query, key, bias=bias)
    assert got[0, 4] == row[0, 4] == 0
    assert torch.isfinite(got).all()
    assert torch.isfinite(row).all()


def test_a_bias_of_log_sizes_equals_repeated_keys() -> None:
    query, key = torch.randn(2, 1, 2, 6, 4).unbind()
    size = torch.tensor([[1, 2, 1, 1, 3, 1]])
    row = attention_row(query, key, bias=size.float().log(), row=2)
    repeated = attention_row(query, key.repeat_interleave(size[0], dim=2), row=2)
    torch.testing.assert_close(row.sum(), repeated.sum())
    torch.testing.assert_close(row[0, 4], repeated[0, 5:8].sum())


@pytest.mark.parametrize("row", [0, 3, -1])
def test_a_row_is_the_row_of_the_softmax(row: int) -> None:
    query, key = torch.randn(2, 2, 4, 7, 8).unbind()
    full = (query @ key.mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(attention_row(query, key, row=row), full.mean(1)[:, row])


@given(
    st.integers(0, 99),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([None, 0.8]),
)
@settings(deadline=None, max_examples=15)
def test_rows_against_loops(
    seed: int, shared: int, rows: int, biased: bool, cap: float | None
) -> None:
    torch.manual_seed(seed)
    query, key = torch.randn(2, 4, rows, 4), torch.randn(2, 4 // shared, 6, 4)
    bias = torch.randn(2, 6) if biased else None
    seen = torch.rand(2, rows, 6) < 0.6
    seen[..., 2] = True
    got = attention_rows(query, key, seen=seen, bias=bias, softcap=cap)
    assert got.shape == (2, 4, rows, 6)
    for b in range(2):
        for h in range(4):
            for r in range(rows):
                powers = [0.0] * 6
                for j in range(6):
                    if seen[b, r, j]:
                        logit = float(query[b, h, r] @ key[b, h // shared, j]) * 0.5
                        logit = logit if cap is None else cap * math.tanh(logit / cap)
                        powers[j] = math.exp(logit + (float(bias[b, j]) if biased else 0.0))
                want = [power / sum(powers) for power in powers]
                assert got[b, h, r].tolist() == pytest.approx(want, rel=1e-4, abs=1e-6)


def test_grouped_keys_equal_repeated_keys() -> None:
    query, key = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8)
    wide = key.repeat_interleave(2, dim=1)
    torch.testing.assert_close(attention_row(query, key), attention_row(query, wide))
    assert torch.equal(attention_received(query, key), attention_received(query, wide))


def test_shapes_that_do_not_fit_are_refused() -> None:
    query = torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match="don't fit"):
        attention_received(query, torch.randn(1, 2, 5, 3))
    with pytest.raises(ValueError, match="same number"):
        attention_received(query, torch.randn(1, 2, 6, 4))
    with pytest.raises(ValueError, match=r"skip must be in 0\.\.4"):
        attention_received(query, query, skip=5)
    with pytest.raises(ValueError, match="bias must be"):
        attention_row(query, query, bias=torch.zeros(5))
    with pytest.raises(ValueError, match="row must be"):
        attention_row(query, query, row=5)
    with pytest.raises(ValueError, match=r"seen must be \[1, 5, 5\]"):
        attention_rows(query, query, seen=torch.ones(5, 5, dtype=torch.bool))
