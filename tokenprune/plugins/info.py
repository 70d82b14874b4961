"""One plugin: where it comes from, what it brought, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PluginProblem:
    """Something that is wrong with a plugin.

    Attributes:
        plugin: name of its entry point.
        distribution: distribution that brought it.
        message: what is wrong.
    """

    plugin: str
    distribution: str
    message: str

    def __str__(self) -> str:
        return f"plugin '{self.plugin}' of '{self.distribution}': {self.message}"


@dataclass(frozen=True)
class PluginInfo:
    """A plugin that works, for listings.

    Attributes:
        name: of its entry point.
        version: of the distribution.
        distribution: that brought it.
        brought: by kind, the names of the things that it registered; kinds without any aren't in.
    """

    name: str
    version: str
    distribution: str
    brought: Mapping[str, tuple[str, ...]]


@dataclass
class Plugin:
    """A plugin of the host.

    Attributes:
        module: what implements the hooks.
        hooks: names of the hooks that it implements.
        brought: by kind and name, what it registered; a kind whose hook wasn't called isn't in.
    """

    name: str
    distribution: str
    version: str
    module: object
    hooks: frozenset[str] = frozenset()
    brought: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name in the plugin manager."""
        return f"{self.distribution}/{self.name}"

    def info(self) -> PluginInfo:
        """What listings say of it."""
        brought = {kind: tuple(things) for kind, things in self.brought.items() if things}
        return PluginInfo(self.name, self.version, self.distribution, brought)
