"""The host with plugins made by hand."""

from __future__ import annotations

import threading

import pytest

import tokenprune.plugins.host as plugins
from tests.plugin import Plain, Register, registering
from tokenprune.errors import PluginError, UnknownNameError
from tokenprune.interface.adapter import Adapter
from tokenprune.interface.placement import Encoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.lab.kinds import LOADERS
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune.plugins.host import PluginHost, host, register_plugin
from tokenprune.plugins.strategies import strategy_class


class Toy(PruningStrategy[StrategyParams]):
    name = "toy"
    stages = (Encoder(),)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        return Reduction.none()


class Second(Toy):
    name = "second"


class Loader:
    scheme, usage = "toy", "toy:NAME"

    def load(self, target: str, options: object) -> object:
        return target


def test_a_plugin_comes_and_goes() -> None:
    with register_plugin(registering(Toy), "mine"):
        assert strategy_class("toy") is Toy
        assert "mine" in {info.name for info in host().infos()}
    with pytest.raises(UnknownNameError):
        strategy_class("toy")
    kept = register_plugin(registering(Toy), "mine")
    kept.unregister()
    kept.unregister()
    assert "toy" not in host().strategies


def test_the_same_name_twice() -> None:
    with register_plugin(registering(Toy), "mine"):
        with pytest.raises(PluginError, match="mine"):
            register_plugin(registering(Second), "mine")
        assert "toy" in host().strategies
        assert "second" not in host().strategies


def test_a_plugin_by_hand_is_taken_whole_or_not_at_all() -> None:
    problems = list(host().problems)
    with register_plugin(registering(Toy), "mine"):
        with pytest.raises(PluginError, match=r"'toy' is taken by .*\.Toy; .*Again is left out"):
            register_plugin(registering(Second, type("Again", (Toy,), {})), "other")
        assert "second" not in host().strategies
    assert host().problems == problems


def test_loaders_and_infos() -> None:
    with register_plugin(registering(Loader(), hook="register_loaders"), "loads"):
        assert isinstance(host().things(LOADERS)["toy"], Loader)
        (info,) = [info for info in host().infos() if info.name == "loads"]
        assert info.brought == {"loaders": ("toy",)}
        with pytest.raises(PluginError, match="'toy' is taken"):
            register_plugin(registering(Loader(), hook="register_loaders"), "too")


def broken(problem: str) -> type:
    return {
        "name": type("Loud", (Toy,), {"name": "Loud Name"}),
        "nameless": type(
            "Nameless", (PruningStrategy,), {"reduce": Toy.reduce, "stages": (Encoder(),)}
        ),
        "abstract": type("Abstract", (PruningStrategy,), {"name": "a", "stages": (Encoder(),)}),
        "stage": type("Stage", (Toy,), {"stages": ("encoder",)}),
        "twice": type("Twice", (Toy,), {"stages": (Encoder(), Encoder(layer=2))}),
        "about": type("Told", (Toy,), {"about": "a summary"}),
        "stageless": type("Stageless", (Toy,), {"stages": ()}),
        "params": type("Params", (Toy,), {"Params": dict}),
        "alien": dict,
    }[problem]


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("name", "lower-case letters"),
        ("nameless", "lower-case letters"),
        ("abstract", "it lacks reduce"),
        ("stage", "write placements"),
        ("stageless", "write placements"),
        ("twice", "name a place twice: encoder, encoder"),
        ("about", r"no About\(summary"),
        ("params", "StrategyParams"),
        ("alien", "subclass of PruningStrategy"),
    ],
)
def test_what_is_no_strategy(problem: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        register_plugin(registering(broken(problem)), "odd")


@pytest.mark.parametrize(
    ("thing", "hook", "message"),
    [
        (object(), "register_loaders", "it lacks scheme, usage, load"),
        (Toy, "register_adapters", "subclass of Adapter"),
        (
            type("Odd", (Adapter,), {"name": "odd", "claims": ()}),
            "register_adapters",
            "EncoderAdapter or MllmAdapter",
        ),
    ],
)
def test_what_is_no_adapter_or_loader(thing: object, hook: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        register_plugin(registering(thing, hook=hook), "odd")


def test_one_bad_thing_leaves_the_rest_of_a_plugin() -> None:
    own = PluginHost()
    assert own.add(registering(Toy, dict, Second), "mixed", "mixed-dist", "1")
    assert set(own.strategies) == {"toy", "second"}
    (problem,) = own.problems
    assert (problem.plugin, problem.distribution) == ("mixed", "mixed-dist")
    assert "builtins.dict is no strategy" in problem.message


def test_a_hook_that_raises_leaves_nothing_behind() -> None:
    def half(register: Register) -> None:
        register(Toy)
        raise RuntimeError("no luck")

    own = PluginHost()
    assert not own.add(Plain(register_strategies=hookimpl(half)), "half", "dist", "1")
    assert own.strategies == {}
    assert own.infos() == []
    assert "its hook 'register_strategies' raised RuntimeError: no luck." in str(own.problems[0])
    assert own.add(registering(Toy), "half", "dist", "2"), "its place is free again"


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (registering(Toy, hook="register_stratgies"), "Did you mean 'register_strategies'"),
        (Plain(), "implements no hook"),
        (
            Plain(register_strategies=hookimpl(lambda registr: None)),
            "registr",
        ),
    ],
)
def test_hooks_that_do_not_fit(plugin: object, message: str) -> None:
    own = PluginHost()
    assert not own.add(plugin, "odd", "odd-dist", "1")
    assert message in own.problems[0].message
    assert own.add(registering(Toy), "good", "good-dist", "1")
    assert set(own.strategies) == {"toy"}


def test_loaded_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, barrier, found = [], threading.Barrier(4), []
    monkeypatch.setattr(plugins, "_host", None)
    monkeypatch.setattr(PluginHost, "load_entry_points", lambda self: calls.append(self))

    def ask() -> None:
        barrier.wait()
        found.append(host())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(map(id, found))) == 1
