"""Libraries that are missing or too old: one sentence, the remedy and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cli.test_commands import run

#: What is missing, the command, its exit code and what it says.
CASES = {
    "pillow": (["PIL"], ["compare", "--limit", "1"], 2, "pillow isn't installed."),
    "transformers": (
        ["transformers"], ["compare", "--limit", "1"], 2, "transformers can't be imported"
    ),
    "timm": (
        ["timm"], ["compare", "--model", "timm:vit", "--limit", "1"], 2, "timm can't be imported"
    ),
    "every extra": (
        ["PIL", "transformers", "timm", "accelerate", "matplotlib", "jinja2", "datasets", "av"],
        ["list"], 0, "evoprune",
    ),
}  # fmt: skip

WITHOUT = """
import json, os, sys
import torch  # most of what a start takes: every case is forked behind it

codes = {}
for case, (missing, arguments, *_) in json.loads(sys.argv[1]).items():
    child = os.fork()
    if not child:
        sys.stdout = sys.stderr = open(case, "w")
        sys.modules.update(dict.fromkeys(missing))  # None: importing it fails
        from tokenprune.cli import app
        app(arguments)
    codes[case] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """The exit code of every case, and what it said."""
    folder = tmp_path_factory.mktemp("without")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(CASES)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    return {case: (codes[case], (folder / case).read_text()) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_a_missing_extra_is_named_where_it_is_needed(
    case: str, ended: dict[str, tuple[int, str]]
) -> None:
    _, _, code, says = CASES[case]
    found, said = ended[case]
    assert found == code, said
    assert says in said
    assert ("pip install -e '.[" in said) == (code == 2)
    assert "Traceback" not in said


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
