"""What installed plugins can do while they are imported, and how long listings take."""

from __future__ import annotations

import logging
import os
import sys
import threading
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.test_host import Toy
from tokenprune.errors.names import LISTED, LONG, nearest, suggestion
from tokenprune.plugins import host as hosts
from tokenprune.plugins import patience
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune.plugins.host import GROUP, PluginHost

RAISED = {
    "raises": "raise ValueError('odd')",
    "exits": "raise SystemExit(3)",
    "ends": "import os\nos._exit(7)",
    "recurses": "def f(): return f()\nf()",
    "base": "class Odd(BaseException): ...\nraise Odd('own kind')",
    "group": "raise BaseExceptionGroup('several', [ValueError(), SystemExit()])",
    "generator": "raise GeneratorExit",
    "syntax": "def",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts modules on the path that entry points name, and gives a host of them alone."""
    monkeypatch.syspath_prepend(str(tmp_path))
    points: list[EntryPoint] = []
    monkeypatch.setattr(hosts, "entry_points", lambda group: points)

    def install(name: str, text: str) -> None:
        (tmp_path / f"tp_{name}.py").write_text(text)
        points.append(EntryPoint(name, f"tp_{name}", GROUP))

    yield install
    for name in [one for one in sys.modules if one.startswith("tp_")]:
        del sys.modules[name]


def loaded() -> PluginHost:
    found = PluginHost()
    found.load_entry_points()
    return found


GOOD = """
import tokenprune
from tests.plugins.test_host import Toy

@tokenprune.hookimpl
def register_strategies(register):
    register(type("Good", (Toy,), {"name": "good"}))
"""


def test_whatever_is_raised_is_named_and_the_others_go_on(installed: Any) -> None:
    for name, text in RAISED.items():
        installed(name, text)
    installed("good", GOOD)
    found = loaded()
    assert "good" in found.strategies
    assert {problem.plugin for problem in found.problems} == set(RAISED)
    said = {problem.plugin: problem.message for problem in found.problems}
    assert "Odd: own kind" in said["base"]
    assert "it called os._exit(7)" in said["ends"]


def test_a_hook_may_raise_anything_too(installed: Any) -> None:
    hook = "import tokenprune\n@tokenprune.hookimpl\ndef register_strategies(register):\n    "
    for name, text in RAISED.items():
        if name not in ("syntax", "recurses"):
            installed(name, hook + text.replace("\n", "\n    "))
    installed("good", GOOD)
    found = loaded()
    assert [*found.strategies] == ["good"]
    assert len(found.problems) == len(RAISED) - 2


def test_an_interrupt_is_one_and_says_where(
    installed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    installed("ctrl_c", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.WARNING, "tokenprune"):
        loaded()
    assert "'ctrl_c' of tp_ctrl_c is being imported" in caplog.text


def test_only_a_plugins_own_code_is_kept_from_ending_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    real = os._exit
    with patience.named("one", "dist", "is being imported"):
        held = os._exit
        other = threading.Thread(target=held, args=(1,))
        other.start()
        other.join()
        with pytest.raises(SystemExit, match=r"os\._exit\(2\)"):
            held(2)
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            held(3)
    assert os._exit is real
    held(4)
    assert ended == [1, 3, 4]


def test_a_slow_plugin_is_named_while_it_is(
    installed: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.05)
    installed("slow", "import time\ntime.sleep(0.4)\n" + GOOD)
    with caplog.at_level(logging.WARNING, "tokenprune"):
        found = loaded()
    assert "waiting: the plugin 'slow'" in caplog.text
    assert "TOKENPRUNE_PLUGINS" in caplog.text
    assert "good" in found.strategies
    caplog.clear()
    monkeypatch.setattr(patience, "PATIENCE", 60.0)
    loaded()
    assert caplog.text == ""


def test_many_strategies_are_registered_and_not_all_listed() -> None:

    class Many:
        @hookimpl
        def register_strategies(self, register: Any) -> None:
            for number in range(5_000):
                register(type("One", (Toy,), {"name": f"one-{number}"}))

    found = PluginHost()
    assert found.add(Many(), "many", "here", "1")
    assert len(found.strategies) == 5_000
    remedy = suggestion("one-99999", found.strategies)
    assert "Did you mean" in remedy
    assert f"and {5_000 - LISTED} more" in remedy
    assert len(remedy) < 2000


def test_long_names_are_near_to_none() -> None:
    assert nearest("x" * (LONG + 1), ["x" * LONG]) is None
    assert nearest("fopro", ["fopru"]) == "fopru"
