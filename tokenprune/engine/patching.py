"""Reversible changes to one model instance: attribute overrides and forward hooks.

People copy, wrap and unwrap models while a plan is attached. A copy is plain: it gets nothing
of a patch. What others put around a patch stays when the patch is taken back, and calls the
original from then on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any, NoReturn, Self

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tokenprune.engine.traffic import Traffic
from tokenprune.errors import AlreadyAttachedError, UnsupportedCallError

Override = Callable[..., Any]
_ABSENT = object()
_MARK = "__tokenprune__"
_LIVE = "live"
_REDUCE = "__reduce_ex__"  # what `pickle` and `copy.deepcopy` look up on the instance
_REPLICATE = "_replicate_for_data_parallel"
_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"
_INNERMOST = "_old_forward"  # where accelerate keeps the forward that its hooks stand around


@dataclass(eq=False)
class _Layer:
    """One override of one method.

    Attributes:
        owner: whose method.
        name: key in the owner's `__dict__`.
        original: the method below, bound.
        before: what stood under the key, or `_ABSENT`.
        function: what stands there instead.
        acts: under `live`, whether the override acts; others may still hold `function` afterwards.
            A dictionary of its own: torch's compiler passes over a whole module whose dictionaries
            haven't changed since the last call, but over none that an object's attribute hangs on.
    """

    owner: Any
    name: str
    original: Override
    before: Any
    function: Any = None
    acts: dict[str, bool] = field(default_factory=lambda: {_LIVE: True})

    @property
    def live(self) -> bool:
        """Whether the override acts."""
        return self.acts[_LIVE]

    def below(self) -> Any:
        """What stood under the key, without overrides that were taken back since."""
        layer = _layer_of(self.before)
        return self.before if layer is None or layer.live else layer.below()

    def remove(self) -> None:
        """Take the override back, from wherever in the owner it was moved to."""
        self.acts[_LIVE] = False
        slots, below = self.owner.__dict__, self.below()
        for key in [key for key, value in slots.items() if _layer_of(value) is self]:
            if below is not _ABSENT:
                slots[key] = below
            elif key == self.name:
                del slots[key]
            else:
                slots[key] = self.original


class Patches:
    """Everything that was changed on a model, so that `undo` leaves nothing behind.

    Args:
        traffic: says for every call whether the overrides act; None: they always do.
    """

    def __init__(self, traffic: Traffic | None = None) -> None:
        self._traffic = traffic
        self._layers: list[_Layer] = []
        self._hooks: list[RemovableHandle] = []
        self._guarded: set[int] = set()

    @property
    def modules(self) -> list[nn.Module]:
        """Modules with an override, in the order of their first ones."""
        found = {id(one.owner): one.owner for one in self._layers}
        return [owner for owner in found.values() if isinstance(owner, nn.Module)]

    def override(self, owner: Any, name: str, function: Override) -> None:
        """Replace method `name` of this instance by `function(original, *args, **kwargs)`.

        The class and other instances stay as they are. The signature seen by `inspect` stays the
        original's, which `generate` relies on. Hooks of accelerate stay around the override, so
        that they act whatever the override does.
        """
        if isinstance(owner, nn.Module):
            self._guard(owner)
        if name == "forward" and _INNERMOST in owner.__dict__:
            name = _INNERMOST
        self._put(owner, name, function, self._traffic)

    def hook(self, module: nn.Module, function: Callable[..., Any]) -> RemovableHandle:
        """Register a forward hook `function(module, args, output)`."""
        self._guard(module)
        traffic = self._traffic

        def acting(*args: Any) -> Any:
            if torch.compiler.is_compiling() or traffic is None or traffic.held():
                return function(*args)
            return None

        handle = module.register_forward_hook(acting)
        self._hooks.append(handle)
        return handle

    @staticmethod
    def run_last(module: nn.Module, handle: RemovableHandle) -> None:
        """Let a forward hook see what hooks that others registered since make of the output."""
        hooks = module._forward_hooks
        if handle.id in hooks and next(reversed(hooks)) != handle.id:
            hooks[handle.id] = hooks.pop(handle.id)

    def hook_before(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """Register `function(module, args, kwargs)`, which may answer with other ones, as it is.

        It runs in front of a compiled graph of the module, if it isn't compiled itself.
        """
        self._guard(module)
        self._hooks.append(module.register_forward_pre_hook(function, with_kwargs=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def undo(self) -> None:
        """Take everything back, in reverse order; calling it twice is harmless."""
        while self._hooks:
            self._hooks.pop().remove()
        while self._layers:
            self._layers.pop().remove()
        self._guarded.clear()

    def _put(
        self, owner: Any, name: str, function: Override, traffic: Traffic | None = None
    ) -> None:
        original = getattr(owner, name)
        layer = _Layer(owner, name, original, owner.__dict__.get(name, _ABSENT))
        acts = layer.acts

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            # unwrapping, accelerate binds what was bound before; a graph would get a guard for it
            if not torch.compiler.is_compiling() and args and args[0] is owner:
                args = args[1:]
            if not acts[_LIVE]:  # somebody who wrapped the model meanwhile still calls this
                return original(*args, **kwargs)
            if torch.compiler.is_compiling() or traffic is None:
                return function(original, *args, **kwargs)
            pruned = traffic.held()
            if pruned is not None:
                return function(original, *args, **kwargs) if pruned else original(*args, **kwargs)
            with traffic.begun() as pruned:
                return function(original, *args, **kwargs) if pruned else original(*args, **kwargs)

        if traffic is not None:
            traffic.overridden(original)
        setattr(replaced, _MARK, layer)
        layer.function = owner.__dict__[name] = replaced
        self._layers.append(layer)

    def _guard(self, module: nn.Module) -> None:
        """Let copies of this module be plain, and refuse to pickle or replicate it.

        Pickled, it would fail at a patch somewhere inside, or come back without its plan.
        """
        if id(module) in self._guarded:
            return
        self._guarded.add(id(module))

        def reduced(original: Override, protocol: Any) -> tuple[Any, ...]:
            build, arguments, *rest = original(protocol)
            if rest and isinstance(rest[0], dict):
                rest[0] = self._plain(rest[0])
            return _Copied(module, build), arguments, *rest

        self._put(module, _REDUCE, reduced)
        self._put(module, _REPLICATE, _refuse_replicas)

    def _plain(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A module's `__dict__` without overrides and without the hooks of these patches."""
        plain = {}
        for key, value in state.items():
            layer = _layer_of(value)
            while layer is not None:
                value = layer.original if key != layer.name else layer.below()
                layer = _layer_of(value)
            if value is not _ABSENT:
                plain[key] = value
        ours = {handle.id for handle in self._hooks}
        for key in _HOOKS:
            hooks = plain.get(key)
            if ours and hooks:
                kept = {number: hook for number, hook in hooks.items() if number not in ours}
                plain[key] = type(hooks)(kept)
        return plain


def own_forward(module: nn.Module) -> bool:
    """Whether a module runs its class's forward, under nothing but overrides of plans."""
    found = module.__dict__.get("forward", _ABSENT)
    layer = _layer_of(found)
    while layer is not None:
        found = layer.below()
        layer = _layer_of(found)
    return found is _ABSENT and _INNERMOST not in module.__dict__


def _layer_of(value: Any) -> _Layer | None:
    """The override whose function this is, bound or not; wrappers with its attributes aren't it."""
    if isinstance(value, MethodType):
        value = value.__func__
    if not isinstance(value, FunctionType):
        return None
    layer: _Layer | None = value.__dict__.get(_MARK)
    return layer if layer is not None and layer.function is value else None


def _refuse_replicas(original: Override) -> NoReturn:
    raise UnsupportedCallError(
        "DataParallel copies a model to its devices without its plan.",
        remedy="Use DistributedDataParallel, one process for each device.",
    )


class _Copied:
    """Builds a copy of a patched module; `pickle` has to write it first, and can't."""

    def __init__(self, module: nn.Module, build: Callable[..., Any]) -> None:
        self._kind, self._build = type(module).__name__, build

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise AlreadyAttachedError(
            f"this {self._kind} carries a plan and can't be pickled.",
            remedy="Call detach() on its handle first, or save its state_dict().",
        )
