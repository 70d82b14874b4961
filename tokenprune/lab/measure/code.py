"""The code and the files that a measurement depends on, by their content.

A version number doesn't change while somebody works on a method; a record must not outlive the code
that it measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tokenprune.interface.strategy import PruningStrategy
from tokenprune.interface.text_tower import TowerChoice
from tokenprune.plan import Plan
from tokenprune.plugins.hookspecs import TEXT_TOWERS
from tokenprune.plugins.host import host
from tokenprune.plugins.strategies import strategy_class, strategy_params

#: Endings of the files that a tokenizer is read from.
TEXTS = (".json", ".txt", ".model", ".jinja")


def digest(data: Any) -> str:
    """SHA-256 of plain data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def method_facts(plan: Plan) -> dict[str, Any]:
    """What a plan depends on besides its text.

    Returns:
        `code`, by package of its strategies, and `files`, by place in the plan, of what its
        parameters name, such as checkpoints and text towers: a SHA-256 each.
    """
    files: dict[str, str] = {}
    for number, stage in enumerate(plan.stages):
        kind, place = strategy_class(stage.strategy), f"stages.{number}"
        params = strategy_params(kind, stage.params)
        for name, value in params:
            # a name such as bundled:NAME is typed as a path and is no file
            if isinstance(value, Path) and value.is_file():
                files[f"{place}.params.{name}"] = _digest([value])
        if kind.text_tower is not PruningStrategy.text_tower:
            named = _tower_files(kind(params).text_tower())
            files |= {f"{place}.{name}": _digest(paths) for name, paths in named.items() if paths}
    return {"code": method_code(plan), "files": files}


def method_code(plan: Plan) -> dict[str, str]:
    """SHA-256 of the packages that define a plan's strategies, by their names."""
    return code_of([strategy_class(stage.strategy) for stage in plan.stages])


def _tower_files(choice: TowerChoice | None) -> dict[str, list[Path]]:
    """The files of the text tower that a stage names, and of the tokenizer's folder if it does."""
    if choice is None:
        return {}
    towers = host().things(TEXT_TOWERS).values()
    tower = next(filter(None, (kind.files(choice.target) for kind in towers)), [])
    beside = Path(choice.tokenizer).glob("*") if choice.tokenizer else ()
    # the folder may be that of a whole model, whose weights say nothing about its tokenizer
    words = [path for path in beside if path.is_file() and path.suffix in TEXTS]
    return {"text_tower": [*tower], "tokenizer": words}


def code_of(kinds: Iterable[type]) -> dict[str, str]:
    """SHA-256 of the packages that define the given classes, by their names."""
    packages = sorted({kind.__module__.partition(".")[0] for kind in kinds})
    return {package: package_digest(package) for package in packages}


@cache
def package_digest(package: str) -> str:
    """SHA-256 of all files of an imported package, or of the file of a module.

    Read once a process, which goes on with the code that it has loaded. Code that was typed in has
    no file; its digest is empty.
    """
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None:
        return ""
    path = Path(file)
    if path.name != "__init__.py":
        return _digest([path])
    return _digest(_files(path.parent))


def _files(folder: Path) -> Iterable[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return (path for path in found if "__pycache__" not in path.parts)


def _digest(paths: Iterable[Path]) -> str:
    """SHA-256 of files, and of their names below the folder that holds them all."""
    total, files = hashlib.sha256(), sorted(paths)
    folder = os.path.commonpath([path.parent for path in files])
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()
