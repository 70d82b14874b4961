"""Whether a model library still takes the arguments that an adapter was written for.

A renamed argument must not be found out in the middle of a call, or never: some renames change a
result without an error. So adapters name what they rely on, and it is compared at attach.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.versions import installed, refuse_older, tested, warn_newer
from tokenprune_adapters.shared.arguments import signature


@dataclass(frozen=True)
class Relied:
    """A method and the parameters that an adapter relies on.

    Attributes:
        owner: object that has the method, a module of the model or the model.
        method: name of the method.
        names: parameters that must exist; of a tuple one is enough.
        first: parameters that must stand in front, in this order, since they go by position; of a
            tuple any. A wrapper that hands on whatever comes, as PEFT's around a module that is
            trained whole, may call them otherwise.
        anything: whether a method that takes any keyword is fine (it hands them on).
    """

    owner: Any
    method: str
    names: Sequence[str | tuple[str, ...]] = ()
    first: Sequence[str | tuple[str, ...]] = ()
    anything: bool = False

    def missing(self) -> str | None:
        """What is gone, as part of a sentence; None if all is there."""
        function = getattr(self.owner, self.method, None)
        if function is None:
            return "no longer exists"
        own = getattr(function, "__func__", None)  # of its class, not put on this instance
        parameters = inspect.signature(function).parameters if own is None else signature(own)
        front = [_either(name) for name in self.first]
        begins = list(parameters)[: len(front)]
        agrees = len(begins) == len(front) and all(
            name in wanted for name, wanted in zip(begins, front, strict=True)
        )
        if not agrees and not _hands_on(parameters.values()):
            return f"no longer begins with {', '.join(_listed(one, ' or ') for one in front)}"
        if self.anything and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return None
        for name in self.names:
            wanted = _either(name)
            if not set(wanted) & set(parameters):
                return f"no longer takes {_listed(wanted, ' or ')}"
        return None


def _hands_on(parameters: Iterable[inspect.Parameter]) -> bool:
    kinds = {one.kind for one in parameters}
    return {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds


def check_library(library: str, relied: Iterable[Relied]) -> None:
    """Compare a model with what its adapter was written for.

    Args:
        library: name of the distribution that the model's code comes from.
        relied: methods of the model at hand.

    Raises:
        DependencyError: the library is older than every tested version.
        UnsupportedModelError: a method or an argument is gone.
    """
    refuse_older(library)
    warn_newer(library)
    for one in relied:
        missing = one.missing()
        if missing is not None:
            raise UnsupportedModelError(
                f"{type(one.owner).__name__}.{one.method} {missing}, which tokenprune relies on.",
                where=f"{library} {installed(library)}",
                remedy=f"Tested: {library}{tested(library)}.",
            )


def _either(name: str | tuple[str, ...]) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else name


def _listed(names: Sequence[str], between: str) -> str:
    return between.join(f"'{name}'" for name in names)
