"""The backend's own attention, together with the logarithm of each query's normaliser."""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokenprune.errors import BackendWarning

Found = tuple[Tensor, Tensor]

# How far the logarithm may be off in the self-test (ours): float32 sums of half-precision products.
_TOLERANCE = 1e-3


def attention_with_lse(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
) -> Found | None:
    """Attention by the device's fused kernel, and `log sum_j exp(q_i k_j / sqrt(d) + bias_j)`.

    The kernels are private to torch, so each is tried on a small example first, once for every
    device and type. One that fails is told of by a `BackendWarning`.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T, d]`.
        value: `[B, H, T, dv]`.
        bias: `[B, T]`, rounded to the type of `query`, as the kernel sees it; or None.

    Returns:
        Attended values `[B, H, T, dv]` and float32 `[B, H, T]`; None where no kernel gives both.
    """
    if not _trusted(query.device, query.dtype):
        return None
    return _call(query, key, value, bias)


def _call(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Found:
    return _KERNELS[query.device.type](query, key, value, bias)


def _cpu(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Found:
    mask = None if bias is None else bias[:, None, None].to(query.dtype)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended, lse = kernel(query, key, value, attn_mask=mask)
    return attended, lse


def _cuda(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Found:
    batch, heads, length, _ = query.shape
    mask = None
    if bias is not None:  # rows of it have to start at multiples of 16 bytes
        room = query.new_empty(batch, 1, 1, -(-length // 8) * 8)
        mask = room[..., :length].copy_(bias[:, None, None]).expand(-1, heads, length, -1)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    attended, lse, *_ = kernel(query, key, value, mask, True)
    return attended, lse[..., :length]  # padded


_KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Found]] = {
    "cpu": _cpu,
    "cuda": _cuda,
}


@cache
def _trusted(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel of a device gives what it should; says so once where it doesn't."""
    if device.type not in _KERNELS:
        return False
    fault = _fault(device, dtype)
    if fault is not None:
        warnings.warn(
            f"torch {torch.__version__}: the attention kernel of {device.type} in {dtype} {fault}. "
            "What tokens receive of an encoder's attention is computed apart from it "
            "(attention_received), normalisers of the softmax included, so strategies that read it "
            "take longer. Results are the same up to rounding.",
            BackendWarning,
            stacklevel=2,
        )
    return fault is None


def _fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong with the kernel of a device, on an example of odd length; None if nothing."""
    angles = torch.arange(2 * 2 * 13 * 16, dtype=torch.float32).view(2, 2, 13, 16)
    query, key = angles.sin().to(device, dtype), (angles * 0.7).cos().to(device, dtype)
    bias = angles[:, 0, :, 0].sin().abs().to(device, dtype)
    try:
        attended, lse = _call(query, key, key, bias)
        plain, bare = _call(query, key, key, None)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        # of another version of torch, or not made for this device
        return f"can't be called ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    logits = query.float() @ key.float().mT * 16**-0.5
    wanted = (logits + bias.float()[:, None, None]).logsumexp(-1)
    want = scaled_dot_product_attention(query, key, key, attn_mask=bias[:, None, None])
    unbiased = scaled_dot_product_attention(query, key, key)
    if not (_close(lse, wanted) and _close(bare, logits.logsumexp(-1))):
        return "gives other log-sum-exps than it should"
    if not (_close(attended, want) and _close(plain, unbiased)):
        return "gives other values than scaled_dot_product_attention"
    return None


def _close(got: Tensor, want: Tensor) -> bool:
    if got.shape != want.shape:
        return False
    slack = _TOLERANCE if got.dtype in (torch.float32, torch.float64) else 2e-2
    return bool(torch.allclose(got.float(), want.float(), rtol=slack, atol=slack))
