"""Index tensors that are the same in every call."""

from functools import lru_cache

import torch
from torch import Tensor


def numbers(count: int, device: torch.device) -> Tensor:
    """0 to `count` - 1, int64 `[count]`, for use inside of operations; not to be written to.

    Made once on a CPU. Elsewhere a tensor that is first made while a CUDA graph is captured would
    belong to that graph.
    """
    return _kept(count) if device.type == "cpu" else torch.arange(count, device=device)


@lru_cache(maxsize=256)
def _kept(count: int) -> Tensor:
    with torch.inference_mode(False):  # so that it may also be saved for a backward pass
        return torch.arange(count, device="cpu")
