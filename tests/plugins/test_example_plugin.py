"""The example package, built and installed like anybody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenprune.testing.strategy import CHECKS

EXAMPLE = Path(__file__).parents[2] / "examples" / "tokenprune-example-plugin"
pytest.importorskip("hatchling", reason="builds the example package")


EXERCISE = """
import sys, pytest
failed = pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1]])
from tokenprune.cli import main
sys.argv = ["tokenprune", "list", "--json"]
try:
    main()
except SystemExit as stop:
    failed = failed or stop.code
sys.exit(failed)
"""


def test_installed_it_passes_its_own_tests_and_is_listed(tmp_path: Path) -> None:
    target = tmp_path / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)),
            str(EXAMPLE),
        ],
        check=True,
    )
    path = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    # one process for both: starting torch is most of the time
    run = subprocess.run(
        [sys.executable, "-c", EXERCISE, str(EXAMPLE / "tests")],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    demands = 2 * len(CHECKS)  # at two stages, of which the encoder sees no videos
    assert f"{demands - 1} passed, 1 skipped" in run.stdout
    assert '"feature_norm"' in run.stdout


def test_it_is_short() -> None:
    source = (EXAMPLE / "tokenprune_example" / "__init__.py").read_text()
    assert len(source.splitlines()) < 40
