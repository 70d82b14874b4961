"""The plugins of this process: the installed ones, and those registered by hand."""

from __future__ import annotations

import threading

from tokenprune.errors import PluginError
from tokenprune.plugin_host import PluginHost

BY_HAND = "(registered by hand)"

_lock = threading.RLock()
_host: PluginHost | None = None


def host() -> PluginHost:
    """The host of this process; installed plugins are loaded at the first call."""
    global _host
    with _lock:
        if _host is None:
            _host = PluginHost()
            _host.load_entry_points()
        return _host


class Registration:
    """A plugin registered by hand; leaves at the end of a `with` block or by `unregister()`."""

    def __init__(self, name: str, distribution: str) -> None:
        self.name, self.distribution = name, distribution

    def unregister(self) -> None:
        """Forget the plugin; a second call does nothing."""
        with _lock:
            host().remove(self.name, self.distribution)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exc: object) -> None:
        self.unregister()


def register_plugin(plugin: object, name: str) -> Registration:
    """Register a module or object with hooks, for notebooks and tests.

    Args:
        plugin: what implements the hooks.
        name: its name in listings.

    Returns:
        A context manager with `unregister()`.

    Raises:
        PluginError: anything is wrong with it; nothing of it stays.
    """
    with _lock:
        current, before = host(), len(host().problems)
        added = current.add(plugin, name, BY_HAND, "-")
        problems = current.problems[before:]
        del current.problems[before:]
        if problems:
            if added:
                current.remove(name, BY_HAND)
            raise PluginError(" ".join(problem.message for problem in problems), where=name)
    return Registration(name, BY_HAND)
