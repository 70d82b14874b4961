"""What can be said of plugins: what one brought, and what is wrong with one."""

from __future__ import annotations

from dataclasses import dataclass


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
    """A plugin that works, for listings: where it comes from and what it registered."""

    name: str
    version: str
    distribution: str
    strategies: tuple[str, ...]
    adapters: tuple[str, ...]
    loaders: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    runners: tuple[str, ...] = ()
    reporters: tuple[str, ...] = ()
