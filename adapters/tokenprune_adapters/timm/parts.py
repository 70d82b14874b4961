"""The parts of a block, run one after the other: known modules as the functions they stand for.

A module's call looks up its hooks, its forward and each of its parameters. A few checks of a whole
chain of parts stand for all of that where nothing hangs on them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import repeat
from operator import attrgetter, contains, is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn.functional import gelu, layer_norm, linear
from torch.nn.modules import module as torch_module

Known = Callable[[Any, Tensor, bool], Tensor]
"""Of a module, its input, and whether nobody else holds that input: the module's output."""

_functions: Any = torch._C._nn  # some of them have no name in torch.nn.functional
KEPT = 4096
"""Chains that are remembered (ours): several times those of the deepest towers. Parameters that are
replaced again and again, as by `functional_call`, make new ones."""
_everywhere: tuple[dict[int, Any], ...] = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)
"""Hooks of all modules there are."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_FORWARD, _COMPILED = repeat("forward"), repeat("_compiled_call_impl")
"""Attributes of a module itself that stand in for its class's forward, for any number of them."""
_forward = attrgetter("forward")


class _Chain(NamedTuple):
    """What parts do one after the other, and what has to stay as it was for that to be all.

    Attributes:
        steps: the parts that do something, and how.
        hooks: where hooks of the modules that aren't called would be, and those of all modules.
        own: attributes of these modules themselves.
        known: these modules,
        forwards: and what their classes had as their forward.
        inside: where modules inside of modules were found,
        names: under which names,
        found: and these modules.
    """

    steps: list[tuple[Known, Any]]
    hooks: list[dict[int, Any]]
    own: list[dict[str, Any]]
    known: list[Any]
    forwards: list[Any]
    inside: list[dict[str, Any]]
    names: list[str]
    found: list[Any]

    def stands(self) -> bool:
        """Whether no hook, no forward of a module's own and no other module has come since."""
        own = self.own
        if any(self.hooks) or any(map(contains, own, _FORWARD)):
            return False
        if any(map(contains, own, _COMPILED)):
            return False
        if not all(map(is_, map(_forward, map(type, self.known)), self.forwards)):
            return False
        return all(map(is_, map(dict.get, self.inside, self.names), self.found))

    def add(self, part: Any) -> None:
        """Add a part, or those inside of it, to the steps."""
        if isinstance(part, Tensor):
            self.steps.append((_scale, part))
            return
        kind = type(part)
        # classes of scripted modules have no forward
        known = _known(getattr(kind, "forward", None)) if _bare(part) else None
        if isinstance(known, tuple) and set(part._modules) != set(known):
            known = None  # a release that does more
        if known is None:
            self.steps.append((_call, part))
            return
        self.hooks.extend(part.__dict__[name] for name in _HOOKS)
        self.own.append(part.__dict__)
        self.known.append(part)
        self.forwards.append(kind.forward)
        if isinstance(known, tuple):
            for name in known:
                self._add_inside(part, name)
        elif known is not _pass_on:
            self.steps.append((known, part))

    def _add_inside(self, part: Any, name: str) -> None:
        found = part._modules.get(name)
        self.inside.append(part._modules)
        self.names.append(name)
        self.found.append(found)
        if found is not None:
            self.add(found)


class Parts:
    """Runs the parts of blocks one after the other.

    A parameter among them is multiplied. A part that does nothing, because the block was built
    without it or it is dropout outside of training, is passed over. A module that has a hook, or
    a forward that isn't its library's, is called as in the plain model, and so is every module
    under a compiler, which sees through a call.
    """

    def __init__(self) -> None:
        self._chains: dict[tuple[Any, ...], _Chain] = {}

    def __call__(self, parts: tuple[Any, ...], hidden: Tensor) -> Tensor:
        """What the parts make of hidden states: `[B, T, D]` -> `[B, T, E]`.

        Args:
            parts: modules, parameters, and None for a part that isn't there.
            hidden: never written to.
        """
        chain = self._standing(parts)
        if chain is None:
            return _called(parts, hidden)
        own = False
        for known, part in chain.steps:
            made = known(part, hidden, own)
            # whoever is called may keep what it gives
            own = known is not _call and (own or made is not hidden)
            hidden = made
        return hidden

    def idle(self, parts: tuple[Any, ...]) -> bool:
        """Whether all of these parts do nothing, and needn't be run."""
        chain = self._standing(parts)
        return chain is not None and not chain.steps

    def _standing(self, parts: tuple[Any, ...]) -> _Chain | None:
        """What the parts do now; None where all have to be called."""
        if is_dynamo_compiling():
            return None
        chain = self._chains.get(parts)
        if chain is None or not chain.stands():
            if any(_everywhere):
                return None
            if len(self._chains) >= KEPT:
                self._chains.clear()
            chain = self._chains[parts] = _chain(parts)
        return chain


def _called(parts: tuple[Any, ...], hidden: Tensor) -> Tensor:
    for part in parts:
        if isinstance(part, Tensor):
            hidden = hidden * part
        elif part is not None:
            hidden = part(hidden)
    return hidden


def _chain(parts: tuple[Any, ...]) -> _Chain:
    chain = _Chain([], [*_everywhere], [], [], [], [], [], [])
    for part in parts:
        if part is not None:
            chain.add(part)
    return chain


def _bare(part: Any) -> bool:
    """Whether a call of the module is one of its class's forward and nothing else."""
    own = part.__dict__
    hooks = any(own[name] for name in _HOOKS)
    return not hooks and "forward" not in own and "_compiled_call_impl" not in own


@cache
def _known(forward: Any) -> Known | tuple[str, ...] | None:
    """What a forward does, if it is one of a library's that is known; or what it runs.

    Told by its name, so that one which somebody has put in its place isn't taken for it.
    """
    if forward is None or hasattr(forward, "__wrapped__"):
        return None
    return _KNOWN.get(f"{forward.__module__}.{forward.__qualname__}")


def _call(part: Any, hidden: Tensor, own: bool) -> Tensor:
    made: Tensor = part(hidden)
    return made


def _scale(part: Tensor, hidden: Tensor, own: bool) -> Tensor:
    return hidden * part


def _pass_on(part: Any, hidden: Tensor, own: bool) -> Tensor:
    return hidden


def _dropout(part: Any, hidden: Tensor, own: bool) -> Tensor:
    return _call(part, hidden, own) if part.training else hidden


def _linear(part: Any, hidden: Tensor, own: bool) -> Tensor:
    held = part._parameters
    if not _plain(held):
        return _call(part, hidden, own)
    return linear(hidden, held["weight"], held["bias"])


def _layer_norm(part: Any, hidden: Tensor, own: bool) -> Tensor:
    held = part._parameters
    if not _plain(held):
        return _call(part, hidden, own)
    return layer_norm(hidden, part.normalized_shape, held["weight"], held["bias"], part.eps)


def _plain(held: dict[str, Any]) -> bool:
    """Whether weight and bias are parameters, and neither is computed or one of several shards."""
    return held.get("weight") is not None and "bias" in held


def _layer_norm_of_timm(part: Any, hidden: Tensor, own: bool) -> Tensor:
    how = _call if part._fast_norm else _layer_norm
    return how(part, hidden, own)


def _gelu(part: Any, hidden: Tensor, own: bool) -> Tensor:
    if own and not torch.is_grad_enabled():
        # the widest states of a block needn't be allocated twice
        made: Tensor = _functions.gelu_(hidden, approximate=part.approximate)
        return made
    return gelu(hidden, approximate=part.approximate)


_KNOWN: dict[str, Known | tuple[str, ...]] = {
    "torch.nn.modules.linear.Identity.forward": _pass_on,
    "torch.nn.modules.dropout.Dropout.forward": _dropout,
    "torch.nn.modules.linear.Linear.forward": _linear,
    "torch.nn.modules.normalization.LayerNorm.forward": _layer_norm,
    "torch.nn.modules.activation.GELU.forward": _gelu,
    "timm.layers.norm.LayerNorm.forward": _layer_norm_of_timm,
    "timm.layers.mlp.Mlp.forward": ("fc1", "act", "drop1", "norm", "fc2", "drop2"),
}
