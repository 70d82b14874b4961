"""Peak memory of a call and the size of its KV cache."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of the storages that operators make, and when they are freed.

    What operators are handed and none of them made, such as parameters, was there before.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._meet((args, kwargs), made=False)
        output = func(*args, **(kwargs or {}))
        self._meet(output, made=True)
        return output

    def _meet(self, values: Any, *, made: bool) -> None:
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage(), made=made)

    def _note(self, storage: torch.UntypedStorage, *, made: bool) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if made else 0
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that tensors of one call took at once, parameters left out.

    On CUDA the allocator's own peak; elsewhere the tensors that operators put out, so without the
    workspace inside an operator.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return int(torch.cuda.max_memory_allocated(device) - before)
    with _Live() as live:
        call()
    return int(live.peak)


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values of a KV cache, layer by layer; 0 without a cache."""
    tensors = [
        getattr(layer, name, None)
        for layer in getattr(cache, "layers", ())
        for name in ("keys", "values")
    ]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
