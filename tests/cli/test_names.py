"""Names are data: no markup of theirs is read, and nothing in them acts on a terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.plugin import registering
from tests.plugins.test_host import Toy
from tests.reporting import made
from tokenprune.cli.app import app, explain
from tokenprune.cli.consoles import Recent, progress_bar
from tokenprune.errors import TokenpruneError
from tokenprune.errors.errors import LONGEST
from tokenprune.errors.visible import visible
from tokenprune.interface.about import About
from tokenprune.plugins.host import register_plugin

EVIL = "[/] [/bold] [red]x\x1b[31m\x1b]0;title\x07\u202etxt"


def test_control_and_direction_characters_are_written_out() -> None:
    assert visible("a\x1b[31m\u202eb\x00\ud800\U000e0001") == (
        "a\\x1b[31m\\u202eb\\x00\\ud800\\U000e0001"
    )
    assert visible("plain, größer 猫\n\ttabs") == "plain, größer 猫\n\ttabs"


@given(st.text())
def test_what_is_visible_can_be_written_and_stays(text: str) -> None:
    found = visible(text)
    found.encode()
    assert visible(found) == found
    assert all(letter in "\n\t" or ord(letter) >= 32 for letter in found)


def test_errors_print_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    explain(TokenpruneError(EVIL, where=EVIL, remedy=EVIL))
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\\x1b[31m" in said
    assert "[/bold]" in said


def test_a_plugins_names_end_no_listing() -> None:
    evil = type("Evil", (Toy,), {"name": "evil", "about": About(summary=EVIL)})
    with register_plugin(registering(evil), name="[/]\x1b"):
        for command in ("list", "plugins"):
            result = CliRunner().invoke(app, [command])
            assert result.exit_code == 0, result.output
            assert "\x1b" not in result.output
            assert "evil" in result.output


def test_progress_takes_any_name() -> None:
    with progress_bar() as tell:
        tell(1, 2, EVIL)
        tell(2, 2, "[/]")


@pytest.mark.parametrize("name", ["[red]x.yaml", "[b].yaml", "a\x1b[31m.yaml"])
def test_a_plans_file_is_named_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("stages: [{at: pre_llm, strategy: random, keep: 4}]")
    result = CliRunner().invoke(app, ["validate", str(tmp_path / name)])
    assert result.exit_code == 0
    assert visible(name) in "".join(result.output.split("\n"))
    assert "\x1b" not in result.output


def test_a_report_shows_control_characters_as_text(tmp_path: Path) -> None:
    """In the page, its tables and what the command prints."""
    records = [made.record("dense", None), made.record(EVIL, "fopru", text=EVIL)]
    made.save(tmp_path, [*records, made.failed(EVIL + "2", EVIL)], name=EVIL)
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--no-figures"])
    assert result.exit_code == 1, result.output
    files = [tmp_path / name for name in ("report.html", "results.md", "results.csv")]
    for text in (result.output, *(one.read_text() for one in files)):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert "\\x1b" in text
        assert "\\u202e" in text


def test_paths_are_names_too(tmp_path: Path) -> None:
    folder = tmp_path / "[" / "] [bold] \x1b[31m"
    folder.mkdir(parents=True)
    made.save(folder, [made.record("dense", None)])
    result = CliRunner().invoke(app, ["report", str(folder), "--no-figures"])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "[bold] \\x1b[31m/report.html" in result.output


def test_messages_have_an_end() -> None:
    error = TokenpruneError("x" * 10**6, where="y" * 10**6, remedy="z" * 10**6)
    assert len(str(error)) < 3 * LONGEST + 200
    assert "1,000,000 letters" in str(error)


def test_a_long_step_is_named_while_it_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenprune.cli.consoles.PAUSE", 0.01)
    said = ""
    with progress_bar() as tell:
        tell(2, 9, EVIL)
        for _ in range(2_000):
            said += capsys.readouterr().err
            if "s so far" in said:
                break
            time.sleep(0.01)
    assert f"2 of 9: {visible(EVIL)}; for 0 s so far" in said


def test_what_is_no_terminal_hears_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("tokenprune.cli.consoles.time.monotonic", lambda: now[0])
    with progress_bar() as tell:
        for done in range(10):
            now[0] = 10.0 * done
            tell(done, 10, EVIL)
    lines = capsys.readouterr().err.splitlines()
    assert [one.split(":")[0] for one in lines] == ["3 of 10", "6 of 10", "9 of 10"]
    assert lines[0].endswith("; about 1 min left")
    with progress_bar(Recent()) as tell:
        tell(1, 2, "quiet")
    assert capsys.readouterr().err == ""


def test_what_an_earlier_run_did_makes_no_step_look_short(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine steps were taken over, and one takes a minute."""
    now = [0.0]
    monkeypatch.setattr("tokenprune.cli.consoles.time.monotonic", lambda: now[0])
    with progress_bar() as tell:
        for done in (9, 10):
            tell(done, 12, "vscan")
            now[0] += 60.0
    assert capsys.readouterr().err.splitlines() == ["10 of 12: vscan; about 2 min left"]


def test_the_watcher_gives_the_time_left_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The thread wakes just before a step is told, so its lines are most of what is seen."""
    with progress_bar() as tell:
        lines: Any = tell
        lines(0, 131, "dense")
        lines(27, 131, "vscan")
        began = lines._start
        lines._told = began + 54.0  # 2 s a step
        lines._say(began + 55.0)
        lines._say(began + 70.0)  # too soon
        lines._say(began + 90.0)
    assert capsys.readouterr().err.splitlines() == [
        "27 of 131: vscan; about 3 min left",
        "27 of 131: vscan; for 36 s so far; about 3 min left",
    ]
