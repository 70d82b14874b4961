"""Tiny checkpoints of every family on disk, and as `--model FOLDER` loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.families import checkpoints
from tests.families.cases import CASES
from tokenprune.interface.loading import LoadedMllm, LoadOptions
from tokenprune.lab.models import load_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint folder of a case; its test is skipped where it can't be made."""
    root = tmp_path_factory.mktemp("families")

    def saved(name: str) -> Path:
        reason = checkpoints.missing(CASES[name])
        if reason:
            pytest.skip(f"{name}: {reason}")
        if not (root / name).exists():
            checkpoints.save(CASES[name], root / name)
        return root / name

    return saved


@pytest.fixture(scope="session")
def load(folder: Callable[[str], Path]) -> Callable[[str], LoadedMllm]:
    """The loaded checkpoint of a case; tests share it, so they leave it as it was."""
    kept: dict[str, LoadedMllm] = {}

    def loaded(name: str) -> LoadedMllm:
        if name not in kept:
            found = load_model(str(folder(name)), LoadOptions())
            assert isinstance(found, LoadedMllm)
            kept[name] = found
        return kept[name]

    return loaded
