"""Installed plugins, good and bad: modules with the metadata an installer leaves on `sys.path`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenprune.plugins.host as plugins
from tokenprune.errors import UnknownNameError
from tokenprune.lab.kinds import METRICS
from tokenprune.plugins.hookspecs import STRATEGIES
from tokenprune.plugins.host import PluginHost
from tokenprune.plugins.strategies import strategy_class

GOOD = """
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune.interface.placement import Encoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import PruningStrategy

class Strategy(PruningStrategy):
    name = "{name}"
    stages = (Encoder(),)
    def reduce(self, tokens, budget):
        return Reduction.none()

@hookimpl
def {hook}(register):
    register(Strategy)
"""
MODULES = {
    "zz_good": GOOD.format(name="zz_strategy", hook="register_strategies"),
    "misspelt": GOOD.format(name="never", hook="register_strategys"),
    "no_import": "import a_module_that_is_not_there\n",
    "syntax": "def broken(:\n",
    "exits": "raise SystemExit(3)\n",
    "taken": GOOD.format(name="random", hook="register_strategies"),
    "raising": GOOD.format(name="also_never", hook="register_strategies")
    + "    raise OSError('x')\n",
}


def install(folder: Path, module: str, source: str) -> None:
    """What an installer would leave behind: a module and its metadata."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"dist_{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{module}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[tokenprune]\nep_{module} = {module}\n")


@pytest.fixture(autouse=True)
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, source in MODULES.items():
        install(tmp_path, module, source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TOKENPRUNE_PLUGINS", raising=False)
    yield
    for module in MODULES:
        sys.modules.pop(module, None)


def loaded() -> PluginHost:
    own = PluginHost()
    own.load_entry_points()
    return own


def test_bad_plugins_are_reported_and_the_others_work() -> None:
    own = loaded()
    infos = own.infos()
    problems = {p.plugin: p for p in own.problems}
    for module, message in {
        "misspelt": "there is no hook 'register_strategys'. Did you mean 'register_strategies'?",
        "no_import": "ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        "syntax": "SyntaxError",
        "exits": "SystemExit: 3",
        "taken": "the name 'random' is taken by tokenprune_strategies.baselines.Random",
        "raising": "its hook 'register_strategies' raised OSError: x.",
    }.items():
        problem = problems[f"ep_{module}"]
        assert problem.distribution == f"dist-{module}"
        assert message in problem.message
    assert own.strategies["zz_strategy"].__module__ == "zz_good"
    assert own.strategies["random"].__module__ == "tokenprune_strategies.baselines", "ours is first"
    assert not {"never", "also_never"} & set(own.strategies)
    assert {"evoprune", "tome"} <= set(own.strategies)
    (info,) = [info for info in infos if info.name == "ep_zz_good"]
    assert (info.distribution, info.version) == ("dist-zz_good", "1.2")
    assert info.brought == {"strategies": ("zz_strategy",)}


def test_the_environment_restricts_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRUNE_PLUGINS", "ep_zz_good, dist-misspelt, ep_zz_goood")
    own = loaded()
    assert set(own.strategies) == {"zz_strategy"}
    assert own.things(METRICS) == {}, "not even our own metric"
    assert [problem.plugin for problem in own.problems] == ["ep_zz_goood", "ep_misspelt"]
    assert "did you mean 'ep_zz_good'" in own.problems[0].message
    monkeypatch.setenv("TOKENPRUNE_PLUGINS", "")
    assert loaded().infos() == []
    monkeypatch.setenv("TOKENPRUNE_PLUGINS", "lab")
    assert [info.name for info in loaded().infos()] == ["lab"], "a plugin as any other"


def test_hooks_are_called_when_things_of_their_kind_are_asked_for() -> None:
    own = loaded()
    assert "ep_raising" not in {problem.plugin for problem in own.problems}
    own.things(METRICS)
    assert "ep_raising" not in {problem.plugin for problem in own.problems}
    own.things(STRATEGIES)
    assert "ep_raising" in {problem.plugin for problem in own.problems}


def test_a_hook_whose_kind_was_left_out_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "scoring", GOOD.format(name="never", hook="register_metrics"))
    monkeypatch.setenv("TOKENPRUNE_PLUGINS", "ep_scoring")
    (problem,) = loaded().problems
    assert "there is no hook 'register_metrics'." in problem.message
    assert "TOKENPRUNE_PLUGINS='ep_scoring' leaves out the other plugins." in problem.message


def test_an_unknown_strategy_points_at_plugins_with_problems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins, "_host", loaded())
    with pytest.raises(UnknownNameError, match=r"Plugins with problems: .*ep_misspelt"):
        strategy_class("never")
