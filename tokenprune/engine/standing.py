"""Where a model's changed modules stood when its plan was attached."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tokenprune.errors import UnsupportedCallError


class Standing:
    """The places of modules in a model, to notice those that were replaced.

    A wrapper that holds the module in its place still runs it, so it is fine.

    Args:
        root: the model.
        modules: those that must stay; what is around them must stay too.
    """

    def __init__(self, root: nn.Module, modules: Iterable[nn.Module]) -> None:
        paths = {id(module): path for path, module in root.named_modules()}
        self._root = root
        self._places: dict[str, tuple[nn.Module, str, nn.Module]] = {}
        for module in modules:
            parent, path = root, ""
            for name in filter(None, paths.get(id(module), "").split(".")):
                path = f"{path}.{name}" if path else name
                child = parent.get_submodule(name)
                self._places[path] = parent, name, child
                parent = child

    def require(self) -> None:
        """Refuse a call of a model in which one of the modules was replaced.

        Raises:
            UnsupportedCallError: naming the place.
        """
        for path, (parent, name, child) in self._places.items():
            now = parent._modules.get(name)
            if now is not child and (now is None or child not in set(now.modules())):
                raise UnsupportedCallError(
                    f"{path} was replaced or taken out since the plan was attached.",
                    where=type(self._root).__name__,
                    remedy="Detach the plan and attach it again to the model as it is now.",
                )
