"""The ceilings of `constraints.txt`, and the tool that writes them and the ends of the ranges."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
TOOL = ROOT / ".ci" / "constraints.py"
LINES = (ROOT / "constraints.txt").read_text().splitlines()
CEILINGS = dict(line.split("<=") for line in LINES if not line.startswith("#"))


def printed(option: str) -> dict[str, Requirement]:
    done = subprocess.run([sys.executable, TOOL, option], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [Requirement(line) for line in done.stdout.splitlines()]
    return {canonicalize_name(each.name): each for each in found}


def test_every_direct_requirement_has_a_ceiling_inside_the_widest_range() -> None:
    wanted = printed("--widest")
    assert len(wanted) > 20
    for name, requirement in wanted.items():
        assert CEILINGS[name] in requirement.specifier, name


def test_every_line_is_a_ceiling_and_stands_once_in_order() -> None:
    assert all(re.fullmatch(r"[a-z\d-]+<=[\w.]+", line) for line in LINES if line[0] != "#")
    names = [line.split("<=")[0] for line in LINES if line[0] != "#"]
    assert names == sorted(set(names))


def test_the_lowest_versions_are_the_lower_bounds_of_what_users_need() -> None:
    lowest = printed("--lowest")
    assert {"torch", "transformers", "timm", "numpy"} <= lowest.keys()
    assert not {"pytest", "ruff", "mkdocs"} & lowest.keys()
    wide = printed("--widest")
    for name, requirement in lowest.items():
        (end,) = requirement.specifier
        assert end.operator == "<="
        assert end.version in wide[name].specifier
        assert Version(end.version) <= Version(CEILINGS[name])


@pytest.mark.parametrize("option", ["--nothing", "--lowest --widest"])
def test_other_options_are_refused(option: str) -> None:
    done = subprocess.run([sys.executable, TOOL, *option.split()], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr
