"""What a compiled model runs as it stands; importing this module imports the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from tokenprune.engine.answered import answered
from tokenprune.engine.call import current
from tokenprune.engine.stages import SCHEDULES

_Function = TypeVar("_Function", bound=Callable[..., object])
uncompiled: Callable[[_Function], _Function] = torch.compiler.disable
"""The function as it stands, also where the code around it is compiled."""
_constant: Callable[[_Function], _Function] = torch.compiler.assume_constant_result


@_constant
def solve(number: int, counts: Sequence[int]) -> bool:
    """Solve budgets for images of so many patches while a graph is traced, not inside of it.

    Args:
        number: of the schedule; older compilers take no object here.
        counts: of patches.
    """
    for count in counts:
        SCHEDULES[number].sites(count)
    return True


# a compiled model breaks its graph here: plugins may do anything
answered_uncompiled = uncompiled(answered)
current_uncompiled = uncompiled(current)
