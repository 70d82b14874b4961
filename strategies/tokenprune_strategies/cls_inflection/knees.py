"""Where a sorted curve bends: how many of its first values to keep.

Source of the idea: Sparsity Meets Similarity (arXiv 2409.01162), whose own rule is unknown; the
rules here are common ones (ours). Every rule takes values sorted in descending order, `[N]`
float64, and returns a number of values that may be 0 or N; bounds are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FLAT = 1e-6
"""Curves whose range is this small a part of their largest value have no bend."""
NEIGHBOURS, OUTLYING = 20, 1.5
"""Of the local outlier factor: the usual defaults."""


def is_flat(values: Tensor) -> bool:
    """Whether a sorted curve falls so little that its order is rounding."""
    return bool(values[0] - values[-1] <= FLAT * values.abs().max())


def smooth(values: Tensor, window: int) -> Tensor:
    """Moving average `[N]` over `window` values; fewer at the ends, where it is cut off."""
    before, total = (window - 1) // 2, len(values)
    sums = torch.cat((values.new_zeros(1), values.cumsum(0)))
    place = torch.arange(total, device=values.device)
    first, stop = (place - before).clamp(min=0), (place - before + window).clamp(max=total)
    return (sums[stop] - sums[first]) / (stop - first)


def chord(values: Tensor) -> int:
    """`argmax_i 1 - x_i - z_i`, both axes scaled to 0..1: farthest below the chord."""
    if len(values) < 2 or is_flat(values):
        return len(values)
    x = torch.linspace(0, 1, len(values), dtype=values.dtype, device=values.device)
    z = (values - values[-1]) / (values[0] - values[-1])
    return int((1 - x - z).argmax()) + 1


def mass(values: Tensor) -> int:
    """`argmax_i sum_{j<=i} y_j / sum_j y_j - i / N`, which is the number of values above the mean.

    The difference grows while y_i is above the mean and falls behind it.
    """
    return int((values > values.mean()).sum())


def max_drop(values: Tensor, least: int) -> int:
    """`argmax_i y_i - y_{i+1}` for i of `least` or more; `least` where there is no such i."""
    drop = (values[:-1] - values[1:])[least - 1 :]
    return int(drop.argmax()) + least if len(drop) else least


def otsu(values: Tensor) -> int:
    """The split with the largest variance between both parts (Otsu 1979)."""
    total = len(values)
    if total < 2:
        return total
    head = torch.arange(1, total, dtype=values.dtype, device=values.device)
    sums = values.cumsum(0)
    first = sums[:-1] / head
    second = (sums[-1] - sums[:-1]) / (total - head)
    return int((head * (total - head) * (first - second).square()).argmax()) + 1


def iqr(values: Tensor) -> int:
    """Values above `Q3 + 1.5 (Q3 - Q1)`, with linearly interpolated quartiles."""
    marks = values.new_tensor([0.25, 0.75])
    lower, upper = torch.quantile(values, marks).tolist()
    return int((values > upper + 1.5 * (upper - lower)).sum())


def lof(values: Tensor) -> int:
    """Values above the median whose local outlier factor exceeds 1.5, 20 neighbours (Breunig 2000).

    Neighbours are the 20 nearest other values; of equally near ones the first of the curve.
    """
    total = len(values)
    count = min(NEIGHBOURS, total - 1)
    if count < 1:
        return 0
    distance = (values[:, None] - values[None]).abs()
    apart = distance.clone().fill_diagonal_(torch.inf)
    near = torch.sort(apart, dim=1, stable=True).indices[:, :count]
    reach = apart.gather(1, near)[:, -1]
    reachable = torch.maximum(distance.gather(1, near), reach[near])
    density = 1 / (reachable.mean(dim=1) + 1e-10)  # duplicates would be infinitely dense
    factor = density[near].mean(dim=1) / density
    return int(((factor > OUTLYING) & (values > values.median())).sum())


RULES: dict[str, Callable[[Tensor], int]] = {"mass": mass, "otsu": otsu, "iqr": iqr, "lof": lof}


def bend(values: Tensor, rule: str, window: int, least: int) -> int:
    """How many of the first values to keep by a rule, before bounds.

    Args:
        values: `[N]`, descending.
        rule: `chord` or `max_drop`, on the smoothed curve, or one of `RULES`.
        window: of the smoothing.
        least: first place that `max_drop` looks at.
    """
    if rule == "chord":
        return chord(smooth(values, window))
    if rule == "max_drop":
        return max_drop(smooth(values, window), least)
    return RULES[rule](values)
