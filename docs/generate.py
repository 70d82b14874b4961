"""Write the pages of the documentation that come from the code, or check that they are fresh.

python docs/generate.py all                      write all
python docs/generate.py plan-reference --check   exit 1 if the page is stale
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from generators.benchmarks import benchmarks
from generators.command_line import command_line
from generators.matrix import strategy_matrix
from generators.plan_reference import plan_reference
from generators.reproduction import reproduction
from generators.signals import signals_page
from generators.strategies_table import strategies_table
from generators.trained import trained_checkpoints

FOLDER = Path(__file__).parent
ALL = "all"
PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "plan-reference": ("plan-reference.md", plan_reference),
    "command-line": ("command-line.md", command_line),
    "strategies-table": ("strategies/index.md", strategies_table),
    "signals": ("signals.md", signals_page),
    "matrix": ("matrix.md", strategy_matrix),
    "benchmarks": ("benchmarks.md", benchmarks),
    "trained-checkpoints": ("trained-checkpoints.md", trained_checkpoints),
    "reproduction": ("reproduction.md", reproduction),
}


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Write or check; the number of stale pages is the exit code.

    Args:
        arguments: the command line; that of the process by default.
        folder: where the pages lie.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"all, or of: {', '.join(PAGES)}")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    options = parser.parse_args(arguments)
    pages = [name for name in options.pages if name != ALL] or [*PAGES]
    unknown = [name for name in pages if name not in PAGES]
    if unknown:
        parser.error(f"there is no page '{unknown[0]}'; known: {', '.join((ALL, *PAGES))}")
    return sum(_page(name, folder, options.check) for name in pages)


def _page(name: str, folder: Path, check: bool) -> bool:
    file, build = PAGES[name]
    path, text = folder / file, build()
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{path}: {'unchanged' if text == before else 'written'}")
        return False
    if text == before:
        return False
    changes = difflib.unified_diff(before.splitlines(), text.splitlines(), "file", "code", n=0)
    print(f"{path} is stale; run: python docs/generate.py {name}", file=sys.stderr)
    print("\n".join([*changes][:20]), file=sys.stderr)
    return True


if __name__ == "__main__":
    # what happens to be installed beside tokenprune doesn't belong on the pages
    os.environ["TOKENPRUNE_PLUGINS"] = "tokenprune"
    sys.exit(main())
