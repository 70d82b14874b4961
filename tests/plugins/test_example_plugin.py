"""The example packages, built and installed like anybody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenprune.testing.strategy import CHECKS

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "tokenprune-example-plugin"
FAMILY = EXAMPLES / "tokenprune-example-family"
pytest.importorskip("hatchling", reason="builds the example packages")


EXERCISE = """
import sys, pytest
failed = pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1]])
from tokenprune.cli import main
sys.argv = ["tokenprune", *sys.argv[2:], "--json"]
try:
    main()
except SystemExit as stop:
    failed = failed or stop.code
sys.exit(failed)
"""


def exercised(example: Path, target: Path, command: str) -> str:
    """What the tests of an installed example print, and a command behind them."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)),
            str(example),
        ],
        check=True,
    )
    path = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    # one process for both: starting torch is most of the time
    run = subprocess.run(
        [sys.executable, "-c", EXERCISE, str(example / "tests"), command],
        env={**os.environ, "PYTHONPATH": path},
        cwd=target.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_installed_it_passes_its_own_tests_and_is_listed(tmp_path: Path) -> None:
    told = exercised(EXAMPLE, tmp_path / "site", "list")
    demands = 2 * len(CHECKS)  # at two stages, of which the encoder sees no videos
    assert f"{demands - 1} passed, 1 skipped" in told
    assert '"feature_norm"' in told


def test_a_family_of_ones_own_passes_its_own_tests_and_is_listed(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "DeepseekVLForConditionalGeneration"):
        pytest.skip(f"transformers {transformers.__version__} has no DeepSeek-VL")
    told = exercised(FAMILY, tmp_path / "site", "plugins")
    assert "2 passed" in told
    assert '"deepseek_vl"' in told


def test_it_is_short() -> None:
    for source in (EXAMPLE / "tokenprune_example", FAMILY / "tokenprune_example_family"):
        assert len((source / "__init__.py").read_text().splitlines()) < 45
