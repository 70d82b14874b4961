"""Every Triton kernel against its reference, at odd sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.launches import tensors
from benchmarks.ops import Site, cases
from tokenprune import ops

#: Odd numbers of tokens and widths: nothing that a block of a kernel divides.
ODD = (Site("odd", 37, 3, 40), Site("odd", 577, 3, 72))


def compare(device: torch.device, dtype: torch.dtype, *, short: bool) -> Iterator[dict[str, Any]]:
    """The largest difference of each kernel from its reference.

    Args:
        device: where to.
        dtype: of features.
        short: whether the smallest size is enough.
    """
    has_triton = {choice.op: choice.backend == "triton" for choice in ops.explain(device)}
    for site in ODD[: 1 if short else None]:
        for name, call in cases(site, 3, device, dtype).items():
            row: dict[str, Any] = {"op": name, "tokens": site.tokens, "dtype": str(dtype)}
            if not has_triton[name]:
                yield row | {"triton": "no kernel runs here"}
                continue
            try:
                with ops.use_backend("reference"):
                    expected = tensors(call())
                with ops.use_backend("triton"):
                    found = tensors(call())
                pairs = list(zip(found, expected, strict=True))
                yield row | {"triton": "ran", **_difference(pairs)}
            except Exception as error:  # one that can't be compiled leaves the others to be seen
                first = str(error).strip().partition("\n")[0]
                yield row | {"triton": "failed", "error": f"{type(error).__name__}: {first}"}


def _difference(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Of numbers the largest difference, of indices the share that agrees."""
    numbers = [(a, b) for a, b in pairs if a.is_floating_point()]
    indices = [(a, b) for a, b in pairs if not a.is_floating_point()]
    found = {}
    if numbers:
        found["difference"] = max(float((a - b).abs().nan_to_num().max()) for a, b in numbers)
    if indices:
        found["same"] = min(float((a == b).double().mean()) for a, b in indices)
    return found
