"""What a recorded pass depends on besides its input: a tower's memory, modules, hooks and modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import chain, repeat
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch._C import _len_torch_dispatch_stack
from torch.utils._device import DeviceContext

from tokenprune.engine.patching import own_forward
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.specs import EncoderSpec
from tokenprune.ops.dispatch import asked

_HOOKS = "_forward_hooks", "_forward_pre_hooks"
_COMMON = frozenset(vars(nn.Module()))
_dtype = attrgetter("dtype")
_function_modes: Callable[[], list[object]] = overrides._get_current_function_mode_stack
_hooked: Callable[[], bool] = nn.modules.module._has_any_global_hook


class AsRecorded:
    """A tower as it stands, to notice what would make its graphs stale.

    Args:
        adapter: the tower's family.
        spec: the tower.
        others: modules of strategies that act in it.

    Attributes:
        why: why its passes can't be replayed as it stands; empty if they can.
    """

    def __init__(
        self, adapter: EncoderAdapter, spec: EncoderSpec, others: Sequence[nn.Module]
    ) -> None:
        self._adapter = adapter
        self._modules = [*spec.entry.modules(), *chain(*(one.modules() for one in others))]
        parts = [module.__dict__ for module in self._modules]
        self._own = parts
        self._children = [part["_modules"] for part in parts]
        self._memory = [part[name] for part in parts for name in ("_parameters", "_buffers")]
        # those of the entry stand around a pass, and run as ever
        self._hooks = [part[name] for part in parts[1:] for name in _HOOKS]
        configs = {id(one): one for one in map(_config, self._modules) if one is not None}
        self._configs = [*map(vars, configs.values())]
        # torch's own layers have none that is set otherwise later
        self._set = [vars(one) for one in self._modules if not _torchs(one)]
        self._values = [(itemgetter(*names), part) for part in self._set if (names := _plain(part))]
        # tensors that aren't registered; they are kept, and so is their memory
        self._loose = [
            (part, name) for part in parts for name, one in part.items() if isinstance(one, Tensor)
        ]
        self._objects, self._settings = self._objects_now(), self._settings_now()
        self._plain = deepcopy(self._plain_now())  # lists may be written to
        self._tensors = [one for one in self._tensors_now() if one is not None]
        self._places, self._addresses = _places(self._tensors), _addresses(self._tensors)
        self.devices = {one.device for one in self._tensors}
        self.why = self._unfit()

    def in_place(self) -> bool:
        """Whether all memory that a graph reads of the tower is still there.

        Weights that others took the place of are kept here, and with them their memory.
        """
        return _addresses(self._tensors) == self._addresses

    def same(self) -> bool:
        """Whether all of it is as it was; it costs a few dozen microseconds."""
        tensors = [one for one in self._tensors_now() if one is not None]
        return (
            _alike(tensors, self._tensors)
            and _places(tensors) == self._places
            and _alike(self._objects_now(), self._objects)
            and self._settings_now() == self._settings
            and self._plain_now() == self._plain
        )

    def training(self) -> bool:
        """Whether a module is in training mode."""
        return any(map(dict.get, self._own, repeat("training")))

    def _tensors_now(self) -> Iterator[Tensor | None]:
        return chain.from_iterable(map(dict.values, self._memory))

    def _objects_now(self) -> list[object]:
        """The modules, their own forwards and tensors, and the hooks."""
        children = chain.from_iterable(map(dict.values, self._children))
        own: Iterator[object] = map(dict.get, self._own, repeat("forward"))
        loose = [part.get(name) for part, name in self._loose]
        return [*children, *own, *loose, *chain.from_iterable(map(dict.values, self._hooks))]

    def _settings_now(self) -> list[dict[str, Any]]:
        return [*map(dict, self._configs)]

    def _plain_now(self) -> tuple[list[int], list[object]] | None:
        """How many attributes modules have, and those that are numbers, text or made of them."""
        try:
            return [*map(len, self._set)], [of(part) for of, part in self._values]
        except KeyError:  # one was taken away
            return None

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
        if len(self.devices) > 1:
            return "its weights are on several devices"
        return ""


def _torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.")


def _plain(part: dict[str, Any]) -> list[str]:
    """The attributes of a module by which its code may decide what it does."""
    return [name for name, one in part.items() if name not in _COMMON and _says(one)]


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


def _places(tensors: list[Tensor]) -> list[object]:
    """Where tensors are in memory, and how they are read there."""
    kinds: Iterator[object] = map(_dtype, tensors)
    return [*_addresses(tensors), *kinds, *map(Tensor.stride, tensors)]


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [*map(Tensor.data_ptr, tensors)]


def _alike(now: list[Any], before: list[Any]) -> bool:
    """Whether two lists hold the same objects."""
    return len(now) == len(before) and all(map(is_, now, before))


def modes(device: torch.device) -> tuple[object, ...]:
    """The modes that decide what a pass launches on a device."""
    kind = device.type
    cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    deterministic = torch.are_deterministic_algorithms_enabled()
    inference = torch.is_inference_mode_enabled()
    return cast, deterministic, inference, torch.get_default_dtype(), asked()


def observed() -> str:
    """Why a pass has to run as usual here: something looks at its operations; empty if nothing."""
    if _len_torch_dispatch_stack():
        return "its operations are counted or changed by a torch mode"
    if any(not isinstance(one, DeviceContext) for one in _function_modes()):
        return "its operations are changed by a torch mode"
    if _hooked():
        return "hooks for all modules are registered"
    return ""
