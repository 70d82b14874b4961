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
    device, type and width of heads. Where none gives both, a `BackendWarning` tells why.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T, d]`.
        value: `[B, H, T, dv]`.
        bias: `[B, T]`, rounded to the type of `query`, as the kernel sees it; or None.

    Returns:
        Attended values `[B, H, T, dv]` and float32 `[B, H, T]`; None where no kernel gives both.
    """
    kernel = _kernel(query.device, query.dtype, query.shape[-1])
    return None if kernel is None else kernel(query, key, value, bias)


def _cpu(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Found:
    mask = None if bias is None else bias[:, None, None].to(query.dtype)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended, lse = kernel(query, key, value, attn_mask=mask)
    return attended, lse


def _cudnn(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Found:
    mask = None if bias is None else bias[:, None, None]
    kernel = torch.ops.aten._scaled_dot_product_cudnn_attention
    attended, lse, *_ = kernel(query, key, value, mask, True)
    return attended, lse.view(query.shape[:3])


def _efficient(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Found:
    batch, heads, length, _ = query.shape
    mask = None
    if bias is not None:  # rows of it have to start at multiples of 16 bytes
        room = query.new_empty(batch, 1, 1, -(-length // 8) * 8)
        mask = room[..., :length].copy_(bias[:, None, None]).expand(-1, heads, length, -1)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    attended, lse, *_ = kernel(query, key, value, mask, True)
    return attended, lse[..., :length]  # padded


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Found]

#: By device, the fastest first.
_KERNELS: dict[str, tuple[Kernel, ...]] = {"cpu": (_cpu,), "cuda": (_cudnn, _efficient)}


@cache
def _kernel(device: torch.device, dtype: torch.dtype, width: int) -> Kernel | None:
    """The first kernel of a device that gives what it should; says so once where none does."""
    faults = []
    for kernel in _KERNELS.get(device.type, ()):
        fault = _fault(kernel, device, dtype, width)
        if fault is None:
            return kernel
        faults.append(fault)
    if faults:
        warnings.warn(
            f"torch {torch.__version__}: the attention kernel of {device.type} in {dtype} "
            f"{'; another '.join(faults)}. "
            "What tokens receive of an encoder's attention is computed apart from it "
            "(attention_received), normalisers of the softmax included, so strategies that read it "
            "take longer. Results are the same up to rounding.",
            BackendWarning,
            stacklevel=2,
        )
    return None


def _fault(kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    """What is wrong with a kernel, on an odd length with hidden keys; None if nothing."""
    angles = torch.arange(2 * 2 * 13 * width, dtype=torch.float32, device="cpu").view(
        2, 2, 13, width
    )
    query, key = angles.sin().to(device, dtype), (angles * 0.7).cos().to(device, dtype)
    bias = angles[:, 0, :, 0].sin().abs().to(device, dtype)
    bias[1, 5:7] = -torch.inf  # hidden keys
    try:
        attended, lse = kernel(query, key, key, bias)
        plain, bare = kernel(query, key, key, None)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        # of another version of torch, or not made for this device
        return f"can't be called ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    logits = query.float() @ key.float().mT * width**-0.5
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
