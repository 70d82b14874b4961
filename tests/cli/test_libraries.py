"""Libraries that are missing or too old: one sentence, the remedy and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_commands import run

WITHOUT = """
import sys
missing, *arguments = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing.split(",")))  # None: importing it fails
from tokenprune.cli import app
app(arguments)
"""


@pytest.mark.parametrize(
    ("absent", "command", "says"),
    [
        ("PIL", ("compare", "--limit", "1"), "pillow isn't installed."),
        ("transformers", ("compare", "--limit", "1"), "transformers can't be imported"),
        ("timm", ("compare", "--model", "timm:vit", "--limit", "1"), "timm can't be imported"),
    ],
)
def test_a_missing_extra_is_named(
    absent: str, command: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, absent, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "pip install -e '.[" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_needs_no_extra(tmp_path: Path) -> None:
    extras = "PIL,transformers,timm,accelerate,matplotlib,jinja2,datasets,av"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, extras, "list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "evoprune" in done.stdout


def test_a_library_that_is_too_old_ends_every_command_but_doctor(
    install: Callable[[str, str], None],
) -> None:
    install("transformers", "5.16.2")
    code, out, err = run("list")
    assert (code, out) == (2, "")
    assert "transformers 5.16.2" in err
    assert "older than every tested one" in err
    code, out, _ = run("doctor")
    assert code == 1
    assert "transformers 5.16.2: this version is older" in " ".join(out.split())


def test_doctor_shows_an_untested_version(install: Callable[[str, str], None]) -> None:
    install("timm", "9.1")
    code, out, _ = run("doctor")
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("timm"))
    assert "9.1" in line
    assert "tested: >=1.0.20" in line
