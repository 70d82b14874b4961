"""Tiny dual encoders as users have them, made once, and pictures of colours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dual import tiny
from tokenprune.interface.loading import LoadedDual
from tokenprune.lab.models import load_model, load_options


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder a family."""
    savers = {"clip": tiny.save_clip, "siglip": tiny.save_siglip, "siglip2": tiny.save_siglip2}
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in savers.items()}


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with labels, class names and captions; tests don't write into it."""
    return tiny.save_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> dict[str, LoadedDual]:
    """The models."""
    return {name: load_dual(folder) for name, folder in folders.items()}


def load_dual(folder: Path) -> LoadedDual:
    """A dual encoder, through the loaders of all plugins."""
    found = load_model(str(folder), load_options("cpu"))
    assert isinstance(found, LoadedDual)
    return found
