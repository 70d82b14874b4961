from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mllm.strategies import TestPlugin
from tokenprune.plugins import register_plugin


@pytest.fixture(autouse=True, scope="package")
def _known_strategies() -> Iterator[None]:
    with register_plugin(TestPlugin(), "mllm-tests"):
        yield
