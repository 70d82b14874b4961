"""The example packages, built and installed like anybody's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tokenprune.testing.strategy import CHECKS

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "tokenprune-example-plugin"
FAMILY = EXAMPLES / "tokenprune-example-family"
WheelBuilder = pytest.importorskip(
    "hatchling.builders.wheel", reason="builds the example packages"
).WheelBuilder


EXERCISE = """
import sys, pytest
from tokenprune.cli import main
failed = [pytest.main(["-q", "-p", "no:cacheprovider", tests]) for tests in sys.argv[1:]]
for command in ("list", "plugins"):
    sys.argv = ["tokenprune", command, "--json"]
    try:
        main()
    except SystemExit as stop:
        failed.append(stop.code)
sys.exit(any(failed))
"""


def test_installed_they_pass_their_own_tests_and_are_listed(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    served = hasattr(transformers, "DeepseekVLForConditionalGeneration")
    examples = [EXAMPLE, FAMILY] if served else [EXAMPLE]
    told = exercised(examples, tmp_path / "site")
    demands = 2 * len(CHECKS)  # at two stages, of which the encoder sees no videos
    assert f"{demands - 1} passed, 1 skipped" in told
    assert '"feature_norm"' in told
    assert not served or "\n2 passed" in told
    assert ('"deepseek_vl"' in told) is served


def exercised(examples: list[Path], target: Path) -> str:
    """What the tests of installed examples print, and the commands behind them."""
    built = target.with_name("wheels")
    for example in examples:
        for wheel in WheelBuilder(str(example)).build(directory=str(built), versions=["standard"]):
            zipfile.ZipFile(wheel).extractall(target)  # which is how an installer lays it out
    path = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    # one process for all: starting torch is most of the time
    run = subprocess.run(
        [sys.executable, "-c", EXERCISE, *(str(example / "tests") for example in examples)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=target.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_it_is_short() -> None:
    for source in (EXAMPLE / "tokenprune_example", FAMILY / "tokenprune_example_family"):
        assert len((source / "__init__.py").read_text().splitlines()) < 45
