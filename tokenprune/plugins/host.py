"""The plugins of this process and what they bring; a broken one never harms the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from tokenprune.errors import PluginError
from tokenprune.errors.names import nearest, suggestion
from tokenprune.interface.adapter import EncoderAdapter, MllmAdapter
from tokenprune.interface.strategy import PruningStrategy
from tokenprune.plugins.hookspecs import ADAPTERS, HOUSE, KINDS, PROJECT, STRATEGIES
from tokenprune.plugins.info import Plugin, PluginInfo, PluginProblem
from tokenprune.plugins.kinds import Kind, Thing
from tokenprune.plugins.patience import named

GROUP = "tokenprune"
RESTRICT = "TOKENPRUNE_PLUGINS"
_OWN = "tokenprune"
BY_HAND = "(registered by hand)"

_lock = threading.RLock()
_host: PluginHost | None = None


class PluginHost:
    """All plugins of this process and the things that they bring, by kind and name.

    A hook of an installed plugin is called when somebody first asks for things of its kind, so a
    plugin can import what is heavy inside the hook.

    Attributes:
        problems: what went wrong so far; `infos` calls the hooks that weren't called yet.
    """

    def __init__(self) -> None:
        self.problems: list[PluginProblem] = []
        self._manager = pluggy.PluginManager(PROJECT)
        self._plugins: dict[str, Plugin] = {}
        self._specify(HOUSE)

    @property
    def strategies(self) -> dict[str, type[PruningStrategy[Any]]]:
        """Strategies by name."""
        return self.things(STRATEGIES)

    @property
    def encoders(self) -> dict[str, type[EncoderAdapter]]:
        """Encoder adapters by name."""
        found = self.things(ADAPTERS)
        return {name: kind for name, kind in found.items() if issubclass(kind, EncoderAdapter)}

    @property
    def mllms(self) -> dict[str, type[MllmAdapter]]:
        """Adapters of multimodal LLMs by name."""
        found = self.things(ADAPTERS)
        return {name: kind for name, kind in found.items() if issubclass(kind, MllmAdapter)}

    def things(self, kind: Kind[Thing]) -> dict[str, Thing]:
        """Things of one kind, of all plugins, by name."""
        found: dict[str, Thing] = {}
        with _lock:
            for plugin in [*self._plugins.values()]:
                if kind.name not in plugin.brought:
                    self._collect(plugin, kind, found)
                found |= plugin.brought.get(kind.name, {})
        return found

    def kinds(self) -> dict[str, Kind[Any]]:
        """Kinds of things by name: those of the house, then those that plugins brought."""
        return {**{kind.name: kind for kind in HOUSE}, **self.things(KINDS)}

    def infos(self) -> list[PluginInfo]:
        """The plugins that work, with all that they bring."""
        for kind in self.kinds().values():
            self.things(kind)
        return [plugin.info() for plugin in self._plugins.values()]

    def advice(self, kind: Kind[Any], name: str) -> str:
        """What to do about a name that no thing of a kind has."""
        remedy = suggestion(name, self.things(kind))
        if self.problems:
            broken = ", ".join(sorted({problem.plugin for problem in self.problems}))
            remedy += f" Plugins with problems: {broken}; see `tokenprune plugins`."
        return remedy + _restricted_hint()

    def load_entry_points(self) -> None:
        """Load installed plugins: our own first, so that nobody takes their names by chance.

        Before these come the plugins that bring kinds, because others may bring things of them.
        """
        chosen = self._chosen([*entry_points(group=GROUP)])
        ordered = sorted(chosen, key=lambda p: (_source(p)[0] != _OWN, _source(p), p.name))
        found = [plugin for point in ordered for plugin in self._imported(point)]
        for plugin in sorted(found, key=lambda plugin: not hasattr(plugin.module, KINDS.hook_name)):
            self._take(plugin)

    def add(self, module: object, name: str, distribution: str, version: str) -> bool:
        """Take one plugin and all things that it brings; False if it had to be left out.

        A hook that raises leaves nothing of its plugin behind. A taken name is refused, the rest
        of that plugin stays.
        """
        plugin = Plugin(name, distribution, version, module)
        with _lock:
            self._take(plugin)
            for kind in self.kinds().values():
                if kind.hook_name in plugin.hooks:
                    self.things(kind)
            return self._plugins.get(plugin.key) is plugin

    def remove(self, name: str, distribution: str) -> None:
        """Forget a plugin and everything it brought."""
        with _lock:
            plugin = self._plugins.pop(f"{distribution}/{name}", None)
            if plugin is not None:
                self._manager.unregister(plugin.module)

    def _chosen(self, found: list[EntryPoint]) -> Iterable[EntryPoint]:
        wanted = os.environ.get(RESTRICT)
        if wanted is None:
            return found
        names = {name.strip() for name in wanted.split(",") if name.strip()}
        known = {point.name for point in found} | {_source(point)[0] for point in found}
        for name in sorted(names - known):
            near = nearest(name, known)
            hint = f"; did you mean '{near}'?" if near else "."
            self._report(name, RESTRICT, f"is asked for but not installed{hint}")
        return [p for p in found if p.name in names or _source(p)[0] in names]

    def _imported(self, point: EntryPoint) -> list[Plugin]:
        """The plugin of an entry point; none if it can't be imported."""
        distribution, version = _source(point)
        try:
            with named(point.name, distribution, "is being imported"):
                return [Plugin(point.name, distribution, version, point.load())]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything, and the others go on
            self._report(point.name, distribution, f"can't be imported: {_said(error)}.")
            return []

    def _take(self, plugin: Plugin) -> None:
        """Register a plugin and its kinds; other things are asked for later."""
        try:
            if self._manager.register(plugin.module, plugin.key) is None:
                raise PluginError("it is blocked.")
            callers = self._manager.get_hookcallers(plugin.module) or ()
            plugin.hooks = frozenset(caller.name for caller in callers)
            self._plugins[plugin.key] = plugin
            self._specify(self.things(KINDS).values())
            if plugin.key in self._plugins:
                self._refuse_odd_hooks(plugin.hooks)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._leave_out(plugin, _said(error))

    def _refuse_odd_hooks(self, hooks: frozenset[str]) -> None:
        known = [kind.hook_name for kind in self.kinds().values()]
        for name in sorted(hooks.difference(known)):
            near = nearest(name, known)
            hint = f" Did you mean '{near}'?" if near else f" Hooks: {', '.join(known)}."
            raise PluginError(f"there is no hook '{name}'.{hint}{_restricted_hint()}")
        if not hooks:
            raise PluginError(
                f"it implements no hook. Mark one of {', '.join(known)} with @tokenprune.hookimpl."
            )

    def _specify(self, kinds: Iterable[Kind[Any]]) -> None:
        """Let the manager compare implementations with the hooks of kinds."""
        for kind in kinds:
            caller = getattr(self._manager.hook, kind.hook_name, None)
            if caller is None or not caller.has_spec():
                self._manager.add_hookspecs(type("Hook", (), {kind.hook_name: kind.hook}))

    def _collect(self, plugin: Plugin, kind: Kind[Thing], taken: Mapping[str, Thing]) -> None:
        """Call a plugin's hook of one kind; what can't be taken becomes a problem."""
        brought = plugin.brought[kind.name] = {}
        if kind.hook_name not in plugin.hooks:
            return
        refused: list[str] = []
        others = [module for module in self._manager.get_plugins() if module is not plugin.module]
        call = self._manager.subset_hook_caller(kind.hook_name, others)
        try:
            with named(plugin.name, plugin.distribution, f"runs its hook '{kind.hook_name}'"):
                call(register=_register(kind, taken, brought, refused))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._leave_out(plugin, f"its hook '{kind.hook_name}' raised {_said(error)}.")
            return
        for message in refused:
            self._report(plugin.name, plugin.distribution, message)

    def _leave_out(self, plugin: Plugin, message: str) -> None:
        """Nothing of the plugin stays; one that holds the same name does."""
        if self._manager.get_plugin(plugin.key) is plugin.module:
            self._manager.unregister(name=plugin.key)
        if self._plugins.get(plugin.key) is plugin:
            del self._plugins[plugin.key]
        plugin.brought.clear()
        self._report(plugin.name, plugin.distribution, message)

    def _report(self, plugin: str, distribution: str, message: str) -> None:
        self.problems.append(PluginProblem(plugin, distribution, message))


def _register(
    kind: Kind[Thing], taken: Mapping[str, Thing], brought: dict[str, Thing], refused: list[str]
) -> Callable[[Thing], None]:
    """What a hook gets: takes sound things under free names, and writes down the others."""

    def register(thing: Thing) -> None:
        wrong = kind.check(thing)
        if wrong:
            refused.append(f"{_called(thing)} is no {kind.one}: {wrong}.")
            return
        name = kind.name_of(thing)
        holder = taken.get(name, brought.get(name))
        if holder is None:
            brought[name] = thing
        else:
            refused.append(
                f"the name '{name}' is taken by {_called(holder)}; {_called(thing)} is left out."
            )

    return register


def _called(given: object) -> str:
    """A class, or the class of an object of somebody's own, by its full name."""
    if isinstance(given, type):
        return f"{given.__module__}.{given.__qualname__}"
    own = type(given).__module__ != "builtins"
    return _called(type(given)) if own else repr(given)


def _source(point: EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return point.module, "unknown"
    return point.dist.name, point.dist.version


def _said(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _restricted_hint() -> str:
    names = os.environ.get(RESTRICT)
    return "" if names is None else f" {RESTRICT}={names!r} leaves out the other plugins."


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
        wrong = [one for one in current.problems[before:] if one.distribution == BY_HAND]
        if wrong:
            for one in wrong:
                current.problems.remove(one)
            if added:
                current.remove(name, BY_HAND)
            raise PluginError(" ".join(one.message for one in wrong), where=name)
    return Registration(name, BY_HAND)
