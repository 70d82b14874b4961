"""Conditions on the values of tensors that a call must fulfil, and when they are looked at.

Reading a value makes a GPU wait, so on other devices than the CPU all conditions of a call are put
off to its end and settled with one synchronisation.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tokenprune.errors import NonFiniteError, PlanError, TokenpruneError
from tokenprune.interface.sites import Site

When = Literal["first", "always"]


@dataclass
class Checks:
    """When an attachment checks the values of what strategies answer.

    Attributes:
        when: at the first call of every site and shape, or always.
        passed: sites and shapes whose answers were found right.
    """

    when: When = "first"
    passed: set[Hashable] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.when not in ("first", "always"):
            raise PlanError(
                f"'{self.when}' doesn't say when to check the values of answers.",
                where="checks",
                remedy="Use 'first' (first call of every site and shape) or 'always'.",
            )


@dataclass
class Conditions:
    """The conditions of one call.

    Attributes:
        checks: of the attachment.
    """

    checks: Checks
    _latest: tuple[Site, Tensor] | None = None
    _asked: list[Hashable] = field(default_factory=list)
    _pending: list[tuple[Tensor, TokenpruneError]] = field(default_factory=list)
    _unread: bool = False

    def wanted(self, case: Hashable) -> bool:
        """Whether the values of this case, a site and a shape, are to be checked in this call."""
        if torch.compiler.is_compiling():
            return False
        if self.checks.when == "always":
            return True
        if case in self.checks.passed:
            return False
        self._asked.append(case)
        return True

    def watch(self, site: Site, hidden: Tensor) -> None:
        """Note the hidden states that enter a selection; `settle` looks at the latest ones.

        NaN and infinity spread to every token in the next attention, so the latest states show what
        arose at earlier sites too. Only what arises in a token that the very next site drops is
        missed.

        Args:
            site: where the selection is made.
            hidden: `[B, N, D]` what arrives there.
        """
        if not torch.compiler.is_compiling() and not hidden.is_meta:
            self._latest = site, hidden

    def require(self, fulfilled: Tensor, error: TokenpruneError) -> None:
        """Raise `error` unless a bool scalar `[]` holds: at once on the CPU, else in `settle`.

        On the meta device, where costs are counted without weights, there are no values to hold.

        Raises:
            TokenpruneError: that error.
        """
        if fulfilled.is_meta:
            self._unread = True
        elif not at_once(fulfilled):
            self._pending.append((fulfilled, error))
        elif not bool(fulfilled):
            raise error

    def require_finite(self, site: Site, hidden: Tensor) -> None:
        """Refuse NaN and infinity at this very site.

        Raises:
            NonFiniteError: `hidden` holds NaN or infinity.
        """
        self.require(_total(hidden).isfinite(), _not_finite(site, "here"))

    def settle(self) -> None:
        """Look at what was put off, with one synchronisation, and at the latest hidden states.

        Raises:
            TokenpruneError: the first error whose condition doesn't hold.
        """
        pending, latest = self._pending, self._latest
        self._pending, self._latest = [], None
        if latest is not None:
            site, hidden = latest
            total = _total(hidden)
            if pending:
                pending.append((total.isfinite(), _not_finite(site, "here or before")))
            elif not math.isfinite(float(total)):  # two operations: the sum, its way to the CPU
                raise _not_finite(site, "here or before")
        if pending:
            device = pending[-1][0].device
            held = torch.stack([fulfilled.to(device) for fulfilled, _ in pending]).tolist()
            for fulfilled, (_, error) in zip(held, pending, strict=True):
                if not fulfilled:
                    raise error
        if not self._unread:
            self.checks.passed.update(self._asked)

    def explain(self, cause: Exception) -> None:
        """Where something else raised: whether a condition that was put off is the reason.

        Raises:
            TokenpruneError: the first error whose condition doesn't hold, from `cause`.
        """
        with contextlib.suppress(RuntimeError):  # the device itself may have failed
            try:
                self.settle()
            except TokenpruneError as found:
                raise found from cause


def at_once(value: Tensor) -> bool:
    """Whether a value can be read without making its device wait."""
    return value.device.type == "cpu"


def _total(hidden: Tensor) -> Tensor:
    """Sum of hidden states, `[]`, of which nobody wants a gradient."""
    values = hidden.detach() if hidden.requires_grad else hidden
    return values.sum(dtype=torch.float32)


def _not_finite(site: Site, place: str) -> NonFiniteError:
    return NonFiniteError(
        f"the hidden states hold NaN or infinity, {place}, so no token can be chosen.",
        where=str(site),
        remedy="Check the input, or run in bfloat16 or float32 if this is float16; "
        'attach(..., checks="always") names the first such site.',
    )
