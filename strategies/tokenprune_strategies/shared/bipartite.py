"""What methods share that match tokens of one half with tokens of the other.

Source: ToMe (arXiv 2210.09461, section 3).
"""

from __future__ import annotations

from torch import Tensor

from tokenprune.errors import BudgetError
from tokenprune.interface.sites import Site


def alternate(order: Tensor) -> tuple[Tensor, Tensor]:
    """What stands in even and in odd places of `[B, M, ...]`."""
    return order[:, 0::2], order[:, 1::2]


def require_half(count: int, remove: int, site: Site) -> None:
    """Refuse to remove more than half of the tokens at once.

    Raises:
        BudgetError: a bipartite step can't remove so many; carries the nearest kept count.
    """
    least = count - count // 2
    if remove > count // 2:
        raise BudgetError(
            f"merging {count} tokens in pairs can't remove {remove} of them at once.",
            where=str(site),
            remedy=f"Keep at least {least} here, or spread the merges over more blocks.",
            nearest=least,
        )
