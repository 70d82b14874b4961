"""The plugins of this process and what they register; a broken one never harms the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from tokenprune.errors import PluginError
from tokenprune.errors.names import nearest
from tokenprune.plugins import hookspecs
from tokenprune.plugins.info import PluginInfo, PluginProblem
from tokenprune.plugins.register import Registered, Registrar

if TYPE_CHECKING:
    from tokenprune.interface.adapter import EncoderAdapter, MllmAdapter
    from tokenprune.interface.loading import Loader
    from tokenprune.interface.metric import Metric
    from tokenprune.interface.strategy import PruningStrategy

Thing = TypeVar("Thing")

GROUP = "tokenprune"
RESTRICT = "TOKENPRUNE_PLUGINS"
LAB = "lab"
"""Our own entry point that waits until metrics, runners or reporters are asked for: it imports the
lab, which takes a while and needs Pillow. `TOKENPRUNE_PLUGINS` doesn't take it away."""
_OWN = "tokenprune"
_HOOKS = (
    "register_strategies",
    "register_adapters",
    "register_loaders",
    "register_metrics",
    "register_runners",
    "register_reporters",
)
BY_HAND = "(registered by hand)"

_lock = threading.RLock()
_host: PluginHost | None = None


@dataclass
class _Plugin:
    name: str
    distribution: str
    version: str
    module: object
    registered: Registered = field(default_factory=Registered)

    @property
    def key(self) -> str:
        return f"{self.distribution}/{self.name}"


class PluginHost:
    """All plugins of this process and what they registered.

    Attributes:
        problems: what went wrong, in the order of loading.
    """

    def __init__(self) -> None:
        self.problems: list[PluginProblem] = []
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: dict[str, _Plugin] = {}
        self._waiting: list[EntryPoint] = []

    @property
    def strategies(self) -> dict[str, type[PruningStrategy[Any]]]:
        """Strategies by name."""
        return self._all(lambda registered: registered.strategies)

    @property
    def encoders(self) -> dict[str, type[EncoderAdapter]]:
        """Encoder adapters by name."""
        return self._all(lambda registered: registered.encoders)

    @property
    def mllms(self) -> dict[str, type[MllmAdapter]]:
        """Adapters of multimodal LLMs by name."""
        return self._all(lambda registered: registered.mllms)

    @property
    def loaders(self) -> dict[str, Loader]:
        """Model loaders by scheme."""
        return self._all(lambda registered: registered.loaders)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Metrics by name, the built-in one included."""
        self._load_lab()
        return self._all(lambda registered: registered.metrics)

    @property
    def runners(self) -> dict[str, type[Any]]:
        """Runners of studies by name, the built-in ones included; the lab says what they are."""
        self._load_lab()
        return self._all(lambda registered: registered.runners)

    @property
    def reporters(self) -> dict[str, type[Any]]:
        """Reporters of studies by name, the built-in ones included; the lab says what they are."""
        self._load_lab()
        return self._all(lambda registered: registered.reporters)

    def _all(self, kind: Callable[[Registered], Mapping[str, Thing]]) -> dict[str, Thing]:
        """Things of one kind, of all plugins, by name."""
        parts = (kind(plugin.registered) for plugin in self._plugins.values())
        return {name: thing for part in parts for name, thing in part.items()}

    def infos(self) -> list[PluginInfo]:
        """The plugins that work."""
        self._load_lab()
        return [
            PluginInfo(
                name=plugin.name,
                version=plugin.version,
                distribution=plugin.distribution,
                strategies=tuple(plugin.registered.strategies),
                adapters=(*plugin.registered.encoders, *plugin.registered.mllms),
                loaders=tuple(plugin.registered.loaders),
                metrics=tuple(plugin.registered.metrics),
                runners=tuple(plugin.registered.runners),
                reporters=tuple(plugin.registered.reporters),
            )
            for plugin in self._plugins.values()
        ]

    def load_entry_points(self) -> None:
        """Load installed plugins: our own first, so that nobody takes their names by chance."""
        found = list(entry_points(group=GROUP))
        self._waiting = [point for point in found if _is_lab(point)]
        chosen = [point for point in self._restricted(found) if not _is_lab(point)]
        for point in sorted(chosen, key=lambda p: (_source(p)[0] != _OWN, _source(p), p.name)):
            self._load(point)

    def _load(self, point: EntryPoint) -> None:
        distribution, version = _source(point)
        try:
            module = point.load()
        except (Exception, SystemExit) as error:
            self._report(point.name, distribution, f"can't be imported: {_said(error)}.")
            return
        self.add(module, point.name, distribution, version)

    def _load_lab(self) -> None:
        """Load what waits; nothing waits any more while it is loaded, for that asks again."""
        with _lock:
            waiting, self._waiting = self._waiting, []
            for point in waiting:
                self._load(point)

    def _restricted(self, found: list[EntryPoint]) -> Iterable[EntryPoint]:
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

    def add(self, module: object, name: str, distribution: str, version: str) -> bool:
        """Register one plugin and collect from it; False if it had to be left out.

        A hook that raises leaves nothing of its plugin behind. A taken name is refused, the rest
        of that plugin stays.
        """
        plugin = _Plugin(name, distribution, version, module)
        try:
            if self._manager.register(module, plugin.key) is None:
                raise PluginError("it is blocked.")
            self._refuse_odd_hooks(module)
            registrar = self._collect(plugin)
        except Exception as error:
            if self._manager.get_plugin(plugin.key) is module:
                self._manager.unregister(name=plugin.key)
            self._report(name, distribution, _said(error))
            return False
        plugin.registered = registrar.registered
        self._plugins[plugin.key] = plugin
        for message in registrar.refused:
            self._report(name, distribution, message)
        return True

    def remove(self, name: str, distribution: str) -> None:
        """Forget a plugin and everything it registered."""
        plugin = self._plugins.pop(f"{distribution}/{name}", None)
        if plugin is not None:
            self._manager.unregister(plugin.module)

    def _refuse_odd_hooks(self, module: object) -> None:
        hooks = self._manager.get_hookcallers(module) or []
        for hook in hooks:
            if not hook.has_spec():
                near = nearest(hook.name, _HOOKS)
                hint = f" Did you mean '{near}'?" if near else f" Hooks: {', '.join(_HOOKS)}."
                raise PluginError(f"there is no hook '{hook.name}'.{hint}")
        if not hooks:
            raise PluginError(
                f"it implements no hook. Mark one of {', '.join(_HOOKS)} with @tokenprune.hookimpl."
            )

    def _collect(self, plugin: _Plugin) -> Registrar:
        adapters = {**self.encoders, **self.mllms}
        registrar = Registrar(
            self.strategies,
            adapters,
            self.loaders,
            lambda: self.metrics,
            lambda: self.runners,
            lambda: self.reporters,
        )
        others = [p for p in self._manager.get_plugins() if p is not plugin.module]
        registers: dict[str, Callable[[Any], None]] = {
            "register_strategies": registrar.strategy,
            "register_adapters": registrar.adapter,
            "register_loaders": registrar.loader,
            "register_metrics": registrar.metric,
            "register_runners": registrar.runner,
            "register_reporters": registrar.reporter,
        }
        for hook, register in registers.items():
            try:
                self._manager.subset_hook_caller(hook, others)(register=register)
            except (Exception, SystemExit) as error:
                raise PluginError(f"its hook '{hook}' raised {_said(error)}.") from error
        return registrar

    def _report(self, plugin: str, distribution: str, message: str) -> None:
        self.problems.append(PluginProblem(plugin, distribution, message))


def _is_lab(point: EntryPoint) -> bool:
    return point.name == LAB and _source(point)[0] == _OWN


def _source(point: EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return point.module, "unknown"
    return point.dist.name, point.dist.version


def _said(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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
