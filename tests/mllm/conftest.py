from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mllm.strategies import PLUGIN, Leave, Look, Shy, Spy
from tokenprune.plugins.host import register_plugin


@pytest.fixture(autouse=True, scope="package")
def _known_strategies() -> Iterator[None]:
    with register_plugin(PLUGIN, "mllm-tests"):
        yield


@pytest.fixture(autouse=True)
def _nothing_recorded() -> None:
    """What a strategy put aside in one test is not there in the next."""
    Look.seen.clear()
    Spy.seen.clear()
    Leave.asked.clear()
    Shy.given.clear()
