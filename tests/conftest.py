"""What all tests may use."""

import os

# pytest runs two workers; threads of their own would only get into each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Dynamo would collect garbage behind every graph; it is collected as anywhere, see below
os.environ.setdefault("TORCH_DYNAMO_RUN_GC_AFTER_COMPILE", "0")

import gc
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tokenprune.interface.versions import installed

HERE = Path(__file__).parent
ROOT = HERE.parent
VARIABLE = "TOKENPRUNE_TEST_DATA"


FUZZ = "--fuzz"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        FUZZ, type=int, default=1, help="so many times the damaged inputs of tests/fuzz"
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with `vit_tiny/` and `imagenet_sample/`, which are not part of the project."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    missing = [name for name in ("vit_tiny", "imagenet_sample") if not (folder / name).is_dir()]
    if missing and named:
        pytest.fail(f"{VARIABLE} names {folder}, which lacks {' and '.join(missing)}.")
    if missing:
        pytest.skip(
            f"no pictures and weights: {folder} lacks {' and '.join(missing)}; set {VARIABLE}."
        )
    return folder


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Pretend that a library is installed in a version."""
    found = metadata.version

    def pretend(name: str, version: str) -> None:
        monkeypatch.setattr(
            metadata, "version", lambda asked: version if asked == name else found(asked)
        )
        installed.cache_clear()

    yield pretend
    installed.cache_clear()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files stay together as long as all workers are busy: shared models are built once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_collection() -> None:
    gc.disable()  # next to nothing of what is imported here is garbage


def pytest_collection_finish() -> None:
    """Collections of garbage leave out what was imported: they would walk through it in vain."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


# marked `versions`: what a release of a model library can break; tests elsewhere mark themselves
DEPENDING = ("adapters", "families", "mllm")
CONTRACT_SAMPLE = ("random", "evoprune+fastv")
"""Of the contract tests, which run for every strategy: the cases of these."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        folder = item.path.relative_to(HERE).parts[0]
        sampled = folder == "contract" and any(name in item.name for name in CONTRACT_SAMPLE)
        if folder in DEPENDING or sampled:
            item.add_marker(pytest.mark.versions)
