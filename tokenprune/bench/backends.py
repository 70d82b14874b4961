"""Dense on its fastest attention backend: the only baseline that counts."""

from __future__ import annotations

from typing import Any

import torch

from tokenprune.bench.timer import seconds
from tokenprune.loading import LoadedMllm

#: Calls of every backend; the fastest single one counts.
TRIES = 3


def fastest_backend(loaded: LoadedMllm, inputs: dict[str, Any]) -> str:
    """Switch the model to the backend on which dense reaches the first token soonest.

    Returns:
        Its name; `as loaded` where the loader offers no choice.
    """
    model: Any = loaded.model
    device = next(loaded.model.parameters()).device
    found: dict[str, float] = {}
    for name, switch in loaded.backends.items():
        if not _works(switch):
            continue
        times = [
            seconds(lambda: model.generate(**inputs, max_new_tokens=1, do_sample=False), device)
            for _ in range(TRIES)
        ]
        found[name] = min(times)
    if not found:
        return "as loaded"
    best = min(found, key=found.__getitem__)
    loaded.backends[best]()
    return best


def _works(switch: Any) -> bool:
    try:
        switch()
    except (ImportError, ValueError, RuntimeError, torch.OutOfMemoryError):
        return False
    return True
