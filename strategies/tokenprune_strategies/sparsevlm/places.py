"""The layers at which SparseVLM acts."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.interface.placement import Step


def steps_of(layers: int, shares: Sequence[float]) -> tuple[Step, ...]:
    """Raters in front of layer 0; cuts behind the paper's layers 2, 6 and 15 of 32.

    Other depths have them at the same shares of the depth (ours); where two fall together, both
    shares hold.

    Args:
        layers: of the LLM.
        shares: of the tokens that arrive at each of the three cuts, those that stay.
    """
    found: dict[int, float] = {0: 1.0}
    for place, share in zip((3, 7, 16), shares, strict=True):
        layer = max(1, layers * place // 32)
        found[layer] = found.get(layer, 1.0) * share
    return tuple(Step(layer, share) for layer, share in sorted(found.items()) if layer < layers)
