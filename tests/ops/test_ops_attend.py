"""Attention together with what tokens receive of it, and from a kernel's logarithms."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenprune import ops
from tokenprune.errors import BackendWarning
from tokenprune.ops import logsumexp
from tokenprune.ops.attend import reference as blocks
from tokenprune.ops.attend_short import suits
from tokenprune.ops.received_from_lse import reference as lse_blocks


def heads(batch: int, count: int, length: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key, value as views of one projection, as models make them."""
    made = torch.randn(batch, length, 3, count, width).permute(2, 0, 3, 1, 4)
    return made[0], made[1], made[2]


def log_sizes(batch: int, length: int) -> Tensor:
    return torch.randint(1, 5, (batch, length)).float().log()


def by_softmax(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int
) -> tuple[Tensor, Tensor]:
    """The same with the whole matrix, in float64."""
    logits = query.double() @ key.double().mT * query.shape[-1] ** -0.5
    weights = (logits if bias is None else logits + bias.double()[:, None, None]).softmax(-1)
    return weights @ value.double(), weights[:, :, skip:, skip:].mean((1, 2))


def row_means(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, skip: int) -> Tensor:
    """What tokens give, in float64."""
    logits = query.double() @ key.double().mT * query.shape[-1] ** -0.5
    weights = (logits if bias is None else logits + bias.double()[:, None, None]).softmax(-1)
    return weights[:, :, skip:, skip:].mean((1, 3))


@given(
    st.integers(0, 99),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(0, 3),
    st.booleans(),
)
@settings(deadline=None, max_examples=20)
def test_against_the_whole_matrix(
    seed: int, batch: int, count: int, length: int, skip: int, biased: bool
) -> None:
    torch.manual_seed(seed)
    skip, query_key_value = min(skip, length - 1), heads(batch, count, length, 4)
    bias = log_sizes(batch, length) if biased else None
    attended, received = ops.attend(*query_key_value, bias=bias, skip=skip)
    want, mean = by_softmax(*query_key_value, bias, skip)
    torch.testing.assert_close(attended, want.float())
    torch.testing.assert_close(received, mean.float())
    again, column, row = ops.attend_margins(*query_key_value, bias=bias, skip=skip)
    assert torch.equal(again, attended)
    assert torch.equal(column, received)
    torch.testing.assert_close(row, row_means(*query_key_value, bias, skip).float())


@given(
    st.integers(0, 99), st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)
)
@settings(deadline=None, max_examples=20)
def test_two_products_against_the_whole_matrix(
    seed: int, batch: int, count: int, rows: int, length: int
) -> None:
    torch.manual_seed(seed)
    query, (_, key, value) = heads(batch, count, rows, 4)[0], heads(batch, count, length, 4)
    bias = log_sizes(batch, length)
    want, _ = by_softmax(query, key, value, bias, 0)
    torch.testing.assert_close(ops.attend_short(query, key, value, bias), want.float())


@torch.no_grad()
def test_two_products_are_for_one_sample_with_few_keys_on_a_cpu() -> None:
    query, key, _ = heads(1, 2, 7, 4)
    assert suits(query, key)
    with torch.enable_grad():
        assert not suits(query, key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not suits(query, key)
    assert not suits(query.bfloat16(), key.bfloat16())
    assert not suits(query.expand(2, -1, -1, -1), key.expand(2, -1, -1, -1))
    assert not suits(query.to("meta"), key.to("meta"))
    assert not suits(query, key.expand(1, 2, 7, 4).repeat(1, 1, 40, 1))


def test_two_products_refuse_shapes_that_do_not_fit() -> None:
    query, key, value = heads(1, 2, 7, 4)
    bias = log_sizes(1, 7)
    for wrong in (
        (query[:, :1], key, value),
        (query[..., :3], key, value),
        (query, key, value[:, :, :6]),
    ):
        with pytest.raises(ValueError, match="query"):
            ops.attend_short(*wrong, bias)
    with pytest.raises(ValueError, match="bias"):
        ops.attend_short(query, key, value, bias[:, :6])


@pytest.mark.parametrize("budget", [1, 40, 400, 3000])
@pytest.mark.parametrize("skip", [0, 2])
def test_blocks_make_no_difference(budget: int, skip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = heads(3, 4, 19, 8)
    bias = log_sizes(3, 19)
    want = by_softmax(query, key, value, bias, skip)
    for name in ("_BLOCK", "_HEADS", "_SAMPLES"):
        monkeypatch.setattr(blocks, name, budget)
    monkeypatch.setattr(lse_blocks, "_BLOCK_CPU", budget)
    attended, received = ops.attend(query, key, value, bias=bias, skip=skip)
    torch.testing.assert_close(attended, want[0].float())
    torch.testing.assert_close(received, want[1].float())
    lse = (query @ key.mT * 8**-0.5 + bias[:, None, None]).logsumexp(-1)
    found = ops.received_from_lse(query, key, lse, bias=bias, skip=skip)
    torch.testing.assert_close(found, want[1].float())
    rows = row_means(query, key, value, bias, skip).float()
    torch.testing.assert_close(ops.attend_margins(query, key, value, bias=bias, skip=skip)[2], rows)
    margins = ops.margins_from_lse(query, key, lse, bias=bias, skip=skip)
    assert torch.equal(margins[0], found)
    torch.testing.assert_close(margins[1], rows)


@pytest.mark.parametrize(("count", "length"), [(2, 33), (3, 65), (12, 101)])
def test_a_batch_gives_what_its_samples_give(count: int, length: int) -> None:
    every, bias = heads(5, count, length, 16), log_sizes(5, length)
    together = ops.attend_margins(*every, bias=bias, skip=1)
    for b in range(5):
        one = slice(b, b + 1)
        alone = ops.attend_margins(*(each[one] for each in every), bias=bias[one], skip=1)
        assert all(torch.equal(a, t[one]) for a, t in zip(alone, together, strict=True))


def test_gradients_are_those_of_attention() -> None:
    query, key, value = made = [each.clone().requires_grad_() for each in heads(2, 2, 7, 4)]
    bias = log_sizes(2, 7)
    attended, received = ops.attend(query, key, value, bias=bias, skip=1)
    assert not received.requires_grad
    plain = scaled_dot_product_attention(query, key, value, attn_mask=bias[:, None, None])
    found = torch.autograd.grad(attended.square().sum(), made)
    want = torch.autograd.grad(plain.square().sum(), made)
    for mine, other in zip(found, want, strict=True):
        torch.testing.assert_close(mine, other)
    with torch.no_grad():
        torch.testing.assert_close(ops.attend(query, key, value, bias=bias, skip=1)[1], received)
    _, column, row = ops.attend_margins(query, key, value, bias=bias, skip=1)
    assert torch.equal(column, received)
    assert not row.requires_grad
    want_row = row_means(query, key, value, bias, 1).float()
    torch.testing.assert_close(row, want_row)


def test_under_autocast_attention_is_cast_as_ever() -> None:
    query, key, value = heads(1, 2, 9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended, received = ops.attend(query, key, value)
        want = scaled_dot_product_attention(query, key, value)
    assert attended.dtype == want.dtype
    assert torch.equal(attended, want)
    torch.testing.assert_close(received, ops.attention_received(query, key))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trusted", [True, False])
def test_half_precision_goes_by_the_kernels_logarithms_or_without(
    dtype: torch.dtype, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logsumexp._kernel(torch.device("cpu"), dtype, 16), "of this version of torch"
    if not trusted:
        monkeypatch.setattr(logsumexp, "_kernel", lambda device, dtype, width: None)
    query, key, value = (each.to(dtype) for each in heads(2, 2, 33, 16))
    bias = log_sizes(2, 33)
    attended, received, row = ops.attend_margins(query, key, value, bias=bias, skip=1)
    mask = bias[:, None, None].to(dtype)
    assert torch.equal(attended, scaled_dot_product_attention(query, key, value, attn_mask=mask))
    rounded = bias.to(dtype).float()
    want, row_want = ops.attention_margins(query, key, bias=rounded, skip=1)
    torch.testing.assert_close(received, want, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(row, row_want, rtol=1e-4, atol=1e-6)


def wrong_lse(*args: Tensor | None) -> tuple[Tensor, Tensor]:
    attended, lse = logsumexp._cpu(*args)  # type: ignore[arg-type]
    return attended, lse + 0.01


def wrong_output(*args: Tensor | None) -> tuple[Tensor, Tensor]:
    attended, lse = logsumexp._cpu(*args)  # type: ignore[arg-type]
    return attended * 1.1, lse


def padded(*args: Tensor | None) -> tuple[Tensor, Tensor]:
    attended, lse = logsumexp._cpu(*args)  # type: ignore[arg-type]
    return attended, torch.nn.functional.pad(lse, (0, 3))


def missing(*_: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._attention_of_another_version()  # type: ignore[no-any-return]


@pytest.fixture
def untried() -> Iterator[None]:
    """No kernel has been tried yet, before the test and behind it."""
    logsumexp._kernel.cache_clear()
    yield
    logsumexp._kernel.cache_clear()


KERNELS = {
    wrong_lse: "gives other log-sum-exps",
    padded: "gives other log-sum-exps",
    wrong_output: "gives other values",
    missing: r"can't be called \(AttributeError: .*_attention_of_another_version",
}


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(("kernel", "why"), KERNELS.items())
def test_a_kernel_that_gives_something_else_is_told_of_once_and_not_used(
    kernel: object, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, value = (each.bfloat16() for each in heads(1, 2, 9, 8))
    attended, received = ops.attend(query, key, value)
    logsumexp._kernel.cache_clear()
    monkeypatch.setitem(logsumexp._KERNELS, "cpu", (kernel,))
    told = rf"kernel of cpu in torch\.bfloat16 {why}.*\(attention_received\).* take longer"
    with pytest.warns(BackendWarning, match=told):
        found = ops.attend(query, key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = ops.attend(query, key, value)
    for values, weights in (found, again):
        torch.testing.assert_close(values, attended)
        torch.testing.assert_close(weights, received, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("untried")
def test_sound_kernels_and_other_devices_say_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logsumexp._kernel(torch.device("cpu"), torch.float32, 16)
        assert logsumexp._kernel(torch.device("meta"), torch.float32, 16) is None


@pytest.mark.usefixtures("untried")
def test_a_device_goes_on_to_its_next_kernel_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = (missing, wrong_lse, logsumexp._cpu)
    monkeypatch.setitem(logsumexp._KERNELS, "cpu", kernels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logsumexp._kernel(torch.device("cpu"), torch.bfloat16, 8) is logsumexp._cpu


def test_logarithms_with_hidden_keys_and_shared_heads() -> None:
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    bias = log_sizes(2, 9)
    bias[0, 4:7] = -torch.inf
    key[0, :, 4] *= 1e3  # a hidden key's sum is larger than any number
    wide = key.repeat_interleave(2, dim=1)
    lse = (query @ wide.mT * 8**-0.5 + bias[:, None, None]).logsumexp(-1)
    found, row = ops.margins_from_lse(query, key, lse, bias=bias, skip=1)
    want = ops.attention_margins(query, key, bias=bias, skip=1)
    torch.testing.assert_close((found, row), want)
    assert found[0, 3:6].tolist() == [0, 0, 0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    query = torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match="key must be"):
        ops.attend(query, query[:, :1], query)
    with pytest.raises(ValueError, match="value must be"):
        ops.attend(query, query, query[..., :3])
    with pytest.raises(ValueError, match=r"skip must be in 0\.\.4"):
        ops.attend(query, query, query, skip=5)
    with pytest.raises(ValueError, match="bias must be"):
        ops.attend(query, query, query, bias=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="lse must be"):
        ops.received_from_lse(query, query, torch.zeros(1, 2, 4))
