"""What a recorded pass depends on besides its input: a tower's memory, modules, hooks, code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.patching import own_forward
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.specs import EncoderSpec

_COMMON = frozenset(vars(nn.Module()))
_TRAINING = "training"
_INSIDE = "_modules", "_parameters", "_buffers"
_HOOKS = "_forward_hooks", "_forward_pre_hooks"
_END = object()
_dtype: Callable[[Tensor], torch.dtype] = attrgetter("dtype")


class AsRecorded:
    """A tower as it stands, to notice what would make its graphs stale.

    What modules hold in dictionaries, such as tensors, has to be the same objects, in the same
    memory. Other attributes are compared with a copy of them as wholes, which takes a fraction of
    the time of a look at each.

    Args:
        adapter: the tower's family.
        spec: the tower.
        others: modules of strategies that act in it.

    Attributes:
        why: why its passes can't be replayed as it stands; empty if they can.
        devices: those of its weights.
    """

    def __init__(
        self, adapter: EncoderAdapter, spec: EncoderSpec, others: Sequence[nn.Module]
    ) -> None:
        self._adapter = adapter
        self._modules = [*spec.entry.modules(), *chain(*(other.modules() for other in others))]
        self._kinds = self._kinds_now()
        self._own = own = [*map(vars, self._modules)]
        self._held = _Held(own)
        tensors = [one for one in self._held.objects if isinstance(one, Tensor)]
        self._hidden = next((type(tensor).__name__ for tensor in tensors if _is_hidden(tensor)), "")
        self._memory = _Memory([tensor for tensor in tensors if not _is_hidden(tensor)])
        configs = {id(one): one for one in map(_config, self._modules) if one is not None}
        self._said = [*own, *map(vars, configs.values()), *map(vars, _classes(self._kinds))]
        self._said_before = [*map(_remembered, self._said)]
        for part in self._said_before[: len(own)]:
            part[_TRAINING] = False
        self.devices = {tensor.device for tensor in tensors}
        self.why = self._unfit()

    def in_place(self) -> bool:
        """Whether all memory that a graph reads of the tower is still there.

        Weights that others took the place of are kept here, and with them their memory.
        """
        return self._memory.in_place()

    def unchanged(self) -> bool:
        """Whether all else is as it was, and no module in training mode.

        It costs a hundred microseconds or so for a tower of three hundred modules.
        """
        try:
            same = self._held.same() and self._memory.same_layout()
            return same and self._kinds_now() == self._kinds and self._said == self._said_before
        except Exception:  # also of what took a place and can't be compared with what stood there
            return False

    def training(self) -> bool:
        """Whether a module is in training mode."""
        return any(map(dict.get, self._own, repeat(_TRAINING)))

    def _kinds_now(self) -> list[type]:
        return [*map(type, self._modules)]

    def _unfit(self) -> str:
        for module in self._modules:
            if not own_forward(module):
                return f"the forward of a {type(module).__name__} was replaced"
        for module in self._modules[1:]:
            for name in _HOOKS:
                hooks: dict[int, Callable[..., Any]] = getattr(module, name)
                if not all(map(self._adapter.own_hook, hooks.values())):
                    return (
                        f"a hook stands on a {type(module).__name__} inside, and replays run none"
                    )
        if self._hidden:
            return f"nobody knows where a {self._hidden} among its weights is in memory"
        if len(self.devices) > 1:
            return "its weights are on several devices"
        return ""


class _Held:
    """What modules hold: children, tensors and hooks.

    Args:
        own: the attributes of every module, those of the tower's entry first.

    Attributes:
        objects: all of them, with a mark at the end.
    """

    def __init__(self, own: Sequence[dict[str, Any]]) -> None:
        inside = [part[name] for part in own for name in _INSIDE]
        # hooks of the entry stand around a pass, and run as ever
        inside += [part[name] for part in own[1:] for name in _HOOKS]
        self._filled = [held.values() for held in inside if held]
        self._empty = [held for held in inside if not held]
        # tensors that aren't registered; they are kept like all others, and so is their memory
        self._loose = [
            (part, name) for part in own for name, one in part.items() if isinstance(one, Tensor)
        ]
        self.objects = [*self._now()]

    def same(self) -> bool:
        """Whether they are the same objects, and no more."""
        return not any(self._empty) and all(map(is_, self._now(), self.objects))

    def _now(self) -> Iterator[object]:
        loose = [part.get(name) for part, name in self._loose]
        return chain(chain.from_iterable(self._filled), loose, (_END,))


class _Memory:
    """Where tensors stand in memory, and in which form.

    Args:
        tensors: they are kept, and with them their memory.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._addresses, self._dtypes = self._addresses_now(), self._dtypes_now()
        self._sizes = tuple([tuple(tensor.shape) for tensor in tensors])
        self._strides = tuple([tensor.stride() for tensor in tensors])

    def in_place(self) -> bool:
        """Whether they stand where they did."""
        return self._addresses_now() == self._addresses

    def same_layout(self) -> bool:
        """Whether their types are as they were.

        Raises:
            AssertionError: their sizes or strides aren't.
        """
        _require_layout(self._tensors, self._sizes, self._strides)
        return self._dtypes_now() == self._dtypes

    def _addresses_now(self) -> list[int]:
        return [*map(Tensor.data_ptr, self._tensors)]

    def _dtypes_now(self) -> list[torch.dtype]:
        return [*map(_dtype, self._tensors)]


def _require_each(
    tensors: Iterable[Tensor], sizes: Iterable[Sequence[int]], strides: Iterable[Sequence[int]]
) -> None:
    """Raise AssertionError unless tensors have these sizes and strides."""
    for _ in map(_guards.assert_size_stride, tensors, sizes, strides):
        pass


# what compiled code of torch asks of its inputs; older releases ask one by one
_guards: Any = torch._C._dynamo.guards
_require_layout = getattr(_guards, "assert_size_stride_grouped", _require_each)


def _is_hidden(one: Tensor) -> bool:
    """Whether the memory of a tensor is that of others, or of none."""
    return one.layout != torch.strided or (one.data_ptr() == 0 and one.numel() > 0)


def _remembered(part: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the attributes of a module, config or class, to be compared with them later."""
    # lists may be written to
    return {
        name: deepcopy(one) if name not in _COMMON and _says(one) else one
        for name, one in part.items()
    }


def _says(one: object) -> bool:
    """Whether it is a number, text, or a container of these."""
    if isinstance(one, dict):
        return all(map(_says, one.values()))
    if isinstance(one, list | tuple | set | frozenset):
        return all(map(_says, one))
    return one is None or isinstance(one, bool | int | float | str)


def _config(module: nn.Module) -> Any:
    found = getattr(module, "config", None)
    return found if hasattr(found, "__dict__") else None


def _classes(kinds: Iterable[type]) -> Iterable[type]:
    """The classes of modules and those that they inherit from, other than torch's own base."""
    every = dict.fromkeys(base for kind in kinds for base in kind.__mro__)
    return [base for base in every if base not in nn.Module.__mro__]
