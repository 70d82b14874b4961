"""From what a plan asks for to numbers of tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from tokenprune.errors import BudgetError, LayerError
from tokenprune.plan.keep import Average
from tokenprune.plan.schedule import refuse_count, removals

__all__ = [
    "average",
    "decoder_keeps",
    "front_loaded",
    "kept",
    "removals",
    "split",
]

_STEPS = 10**6


def kept(keep: int | float, count: int, where: str = "") -> int:
    """Tokens that a stage keeps of the `count` that arrive.

    Args:
        keep: an int means tokens; a float in (0, 1] a ratio, rounded down, at least one token.
        count: tokens that arrive.
        where: place to name in errors.

    Raises:
        BudgetError: less than one token, or more than arrive; `nearest` is feasible.
    """
    if count < 1:
        raise BudgetError("no token arrives here.", where=where, remedy="Keep more before it.")
    if isinstance(keep, float):
        if not 0 < keep <= 1:
            raise BudgetError(
                f"a ratio of {keep} can't be kept.",
                where=where,
                remedy="Ratios lie in (0, 1]; tokens are written without a decimal point.",
                nearest=1.0 if keep > 1 else 1 / count,
            )
        return max(1, int(count * keep + 1e-9))
    refuse_count(keep, count, where)
    return keep


def split(total: int, counts: Sequence[int], where: str = "") -> list[int]:
    """A total for several pictures of one prompt, in proportion to their visual tokens (ours).

    Largest remainders, the first of equal ones; at least one token each: a picture whose part is
    smaller than one gets one, and the others share the rest.

    Args:
        total: tokens for all; pictures with fewer keep all of theirs.
        counts: tokens of each picture, at least one.
        where: place to name in errors.

    Returns:
        Tokens for each picture, `min(total, sum(counts))` in all.

    Raises:
        BudgetError: fewer tokens than pictures; `nearest` is their number.
    """
    if total < len(counts):
        raise BudgetError(
            f"a total of {total} can't leave each of {len(counts)} pictures of a prompt a token.",
            where=where,
            remedy=f"The least total is {len(counts)} here.",
            nearest=len(counts),
        )
    left, present, small = min(total, sum(counts)), sum(counts), set[int]()
    # lifting small ones to a token lowers the parts of the others, which may get small by that
    while new := {
        place for place, count in enumerate(counts) if place not in small and left * count < present
    }:
        small |= new
        left, present = left - len(new), present - sum(counts[place] for place in new)
    parts = [1 if n in small else left * count // present for n, count in enumerate(counts)]
    rest = {n: left * count % present for n, count in enumerate(counts) if n not in small}
    spare = left - sum(parts[place] for place in rest)
    for place in sorted(rest, key=lambda one: (-rest[one], one))[:spare]:
        parts[place] += 1
    return parts


def average(counts: Sequence[int], at: Sequence[int], arrivals: int, layers: int) -> float:
    """Mean of the visual tokens that the LLM's layers see.

    Args:
        counts: tokens after each decoder stage.
        at: layer whose input each stage prunes, ascending.
        arrivals: tokens that enter layer 0.
        layers: number of layers.
    """
    return _total(counts, at, arrivals, layers) / layers


def _total(counts: Sequence[int], at: Sequence[int], arrivals: int, layers: int) -> int:
    edges, seen = (0, *at, layers), (arrivals, *counts)
    return sum(n * (edges[i + 1] - edges[i]) for i, n in enumerate(seen))


def decoder_keeps(
    keeps: Sequence[int | float | Average],
    at: Sequence[int],
    arrivals: int,
    layers: int,
    where: str = "",
) -> tuple[int, ...]:
    """Tokens after each of several decoder stages.

    Stages with an average budget come last and share it: each keeps the same ratio of what
    arrives (our choice, the shape of PyramidDrop), the largest one whose mean over all layers
    doesn't exceed the budget; what rounding leaves over goes to the last stage. For a single stage
    before layer K of L that is the largest k with (K * arrivals + (L - K) * k) / L <= average.

    Args:
        keeps: budget of each stage.
        at: layer whose input each stage prunes, ascending.
        arrivals: tokens that enter layer 0.
        layers: number of layers of the LLM.
        where: place to name in errors.

    Raises:
        BudgetError: infeasible; `nearest` is the closest feasible value.
        LayerError: the LLM has no such layer.
    """
    for layer in at:
        if not 0 <= layer < layers:
            raise LayerError(
                f"the LLM has no layer {layer}.",
                where=where,
                remedy=f"Its layers are 0 to {layers - 1}.",
            )
    fixed: list[int] = []
    for keep in keeps:
        if isinstance(keep, Average):
            break
        fixed.append(kept(keep, fixed[-1] if fixed else arrivals, where))
    free = len(keeps) - len(fixed)
    if not free:
        return tuple(fixed)
    target = keeps[-1]
    if not isinstance(target, Average) or any(k != target for k in keeps[len(fixed) :]):
        raise BudgetError(
            "decoder stages with an average budget must come last and share it.", where=where
        )
    return _solve(target.average, fixed, free, at, arrivals, layers, where)


def _solve(
    target: float,
    fixed: list[int],
    free: int,
    at: Sequence[int],
    arrivals: int,
    layers: int,
    where: str,
) -> tuple[int, ...]:
    start = fixed[-1] if fixed else arrivals
    budget = target * layers + 1e-6

    def counts(step: int) -> list[int]:
        found = list(fixed)
        for _ in range(free):
            present = found[-1] if found else arrivals
            found.append(max(1, int(present * step / _STEPS + 1e-9)))
        return found

    least = average(counts(0), at, arrivals, layers)
    most = average([*fixed, *[start] * free], at, arrivals, layers)
    if not least * layers <= budget or target > most + 1e-9:
        nearest = least if target < least else most
        raise BudgetError(
            f"an average of {target:g} visual tokens over {layers} layers can't be reached: "
            f"{arrivals} tokens arrive and the stages stand before layers {list(at)}.",
            where=where,
            remedy=f"The nearest feasible average is {nearest:g}; earlier layers reach lower ones.",
            nearest=nearest,
        )
    found = counts(
        bisect_right(
            range(_STEPS + 1), budget, key=lambda s: _total(counts(s), at, arrivals, layers)
        )
        - 1
    )
    spare = int(budget - _total(found, at, arrivals, layers)) // (layers - at[-1])
    ceiling = found[-2] if len(found) > 1 else arrivals
    found[-1] = min(found[-1] + spare, ceiling)
    return tuple(found)


def front_loaded(removals: Sequence[int], count: int) -> str | None:
    """A warning if one of the earliest third of the blocks takes half or more of its tokens.

    Args:
        removals: removals of every block.
        count: tokens that arrive at the first block.

    Returns:
        A sentence for the user, or None. The threshold is ours: merging much too early is what
        costs accuracy in the schedule study of EvoPrune (arXiv 2603.03681, app. A).
    """
    present = count
    for block, removed in enumerate(removals[: -(-len(removals) // 3)]):
        if removed and removed >= present // 2:
            return (
                f"Block {block} of {len(removals)} removes {removed} of {present} tokens; early "
                "blocks know little of the image yet, so expect a loss. A later or longer range "
                "of blocks, or a larger budget, is gentler."
            )
        present -= removed
    return None
