"""Versions to install: the ceilings in `constraints.txt`, and the ends of the tested ranges.

    .venv-newest/bin/python .ci/constraints.py     raise the ceilings to what is installed there
    python .ci/constraints.py --lowest             the lower bounds, as constraints
    python .ci/constraints.py --widest             the requirements, open up to the next major

The first is run in an environment in which the tests passed. A ceiling only rises: delete its line
to lower it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
CEILINGS = ROOT / "constraints.txt"
PACKAGE = "tokenprune"
EXTRAS = ("all", "dev")
HEAD = """\
# The newest versions that the tests passed with, of every package that [all,dev] brings in.
# Ceilings and not pins, so that a machine with older wheels of its own can install, too.
# Made by `python .ci/constraints.py`, in the environment of `.ci/run --newest`, on Linux.
# Left out: packages that another one pins exactly, as torch does with CUDA and Triton.
"""


def bounds(extras: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Bounds of `pyproject.toml`: name, with its extras -> (oldest, first untested version)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, tuple[str, str]] = {}

    def add(lines: list[str]) -> None:
        for line in lines:
            if own := re.fullmatch(rf"{PACKAGE}\[(.+)\]", line):
                for extra in own[1].split(","):
                    add(project["optional-dependencies"][extra])
            elif match := re.fullmatch(r"([\w.-]+(?:\[.+\])?)>=([\d.]+),<([\d.]+)", line):
                found[match[1]] = (match[2], match[3])
            else:
                sys.exit(f"pyproject.toml: '{line}' has not the form name>=LOW,<HIGH.")

    add(project["dependencies"])
    for extra in extras:
        add(project["optional-dependencies"][extra])
    return found


def lowest() -> Iterator[str]:
    """What users need at its lower bound; tools of the tests stay as they are."""
    for name, (low, _) in sorted(bounds(("all",)).items()):
        yield f"{name.partition('[')[0]}<={low}"


def widest() -> Iterator[str]:
    """Every requirement up to the next major, whatever was tested."""
    for name, (low, below) in sorted(bounds(EXTRAS).items()):
        major = int(below.split(".")[0]) + ("." in below)
        yield f"{name}>={low},<{major}"


def ceilings(kept: dict[str, str]) -> Iterator[str]:
    """The installed versions, or the higher one of `kept`, of all that `EXTRAS` bring in."""
    from packaging.version import Version

    needed, pinned = brought_in()
    for name in sorted(needed - pinned):
        versions = [Version(metadata.version(name)), Version(kept.get(name, "0"))]
        yield f"{name}<={max(versions).public}"


def brought_in() -> tuple[set[str], set[str]]:
    """Installed packages that `EXTRAS` need, directly or not; those that one of them pins."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned: set[str] = set()
    seen: set[tuple[str, str]] = set()
    open_ends = [(PACKAGE, extra) for extra in ("", *EXTRAS)]
    while open_ends:
        name, extra = end = open_ends.pop()
        if end in seen:
            continue
        seen.add(end)
        for line in metadata.requires(name) or ():
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            other = str(canonicalize_name(wanted.name))
            open_ends += [(other, asked) for asked in ("", *wanted.extras)]
            if any(each.operator in ("==", "~=") for each in wanted.specifier):
                pinned.add(other)
    return {name for name, _ in seen} - {PACKAGE}, pinned


def main() -> None:
    """Print what was asked for, or write the ceilings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--lowest", action="store_true", help="print the lower bounds")
    ends.add_argument("--widest", action="store_true", help="print requirements up to the major")
    asked = parser.parse_args()
    if asked.lowest or asked.widest:
        print("\n".join(lowest() if asked.lowest else widest()))
        return
    old = CEILINGS.read_text(encoding="utf-8") if CEILINGS.exists() else ""
    kept = dict(re.findall(r"^([\w.-]+)<=(\S+)$", old, re.MULTILINE))
    CEILINGS.write_text(HEAD + "\n".join(ceilings(kept)) + "\n", encoding="utf-8")
    print(f"{CEILINGS.name}: {len(CEILINGS.read_text().splitlines()) - HEAD.count('#')} ceilings")


if __name__ == "__main__":
    main()
