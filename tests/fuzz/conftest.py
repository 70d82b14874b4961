"""How many inputs each reader gets, and that none of them takes for ever."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import pytest

from tests.conftest import FUZZ

#: Seconds that all small inputs of one reader may take together; more is a reader that hangs.
PATIENCE = 120


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """What `--fuzz` says: so many times the inputs of an ordinary run."""
    return int(request.config.getoption(FUZZ))


@pytest.fixture(autouse=True)
def _no_hang(times: int) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"a reader is at work for {PATIENCE * times} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE * times)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
