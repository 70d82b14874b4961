"""The code and the files that a cell depends on, by their content.

A version number doesn't change while somebody works on a method; a record must not outlive the code
that it measured.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tokenprune.plan import Plan
from tokenprune.plugins.strategies import strategy_class, strategy_params


def method_facts(plan: Plan) -> dict[str, Any]:
    """What a plan depends on besides its text.

    Returns:
        `code`, by package of its strategies, and `files`, by place in the plan, of what its
        parameters name, such as checkpoints: a SHA-256 each.
    """
    kinds = [strategy_class(stage.strategy) for stage in plan.stages]
    files: dict[str, str] = {}
    for number, (kind, stage) in enumerate(zip(kinds, plan.stages, strict=True)):
        for name, value in strategy_params(kind, stage.params):
            # a name such as bundled:NAME is typed as a path and is no file
            if isinstance(value, Path) and value.is_file():
                files[f"stages.{number}.params.{name}"] = _digest([value], value.parent)
    return {"code": code_of(kinds), "files": files}


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
        return _digest([path], path.parent)
    return _digest(sorted(_files(path.parent)), path.parent)


def _files(folder: Path) -> Iterable[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return (path for path in found if "__pycache__" not in path.parts)


def _digest(paths: Iterable[Path], folder: Path) -> str:
    total = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()
