"""The kit in pytest: every demand a test of its own.

In a test file, `test_contract = strategy_contract(MyStrategy)` is all there is to write. With
`pytest_plugins = ["tokenprune.testing.pytest_plugin"]` in `conftest.py`, tests can also use the
fixture `check_strategy`. The plugin isn't loaded by itself, since importing it imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest

from tokenprune.interface.sites import Stage
from tokenprune.interface.strategy import PruningStrategy, places
from tokenprune.testing.record import Report
from tokenprune.testing.strategy import CHECKS, refuse_unregistered
from tokenprune.testing.strategy import check_strategy as check

__all__ = ["check_strategy", "strategy_contract"]


def strategy_contract(
    kind: type[PruningStrategy[Any]],
    params: Mapping[str, Any] | None = None,
    *,
    stages: Sequence[Stage] | None = None,
    seed: int = 0,
    inside: bool = True,
) -> Callable[..., None]:
    """A test function that holds a strategy to the contract, with a case for each demand and stage.

    A case that doesn't apply is skipped with the reason. Arguments are those of
    `tokenprune.testing.check_strategy`.

    Returns:
        The test; assign it to a name that begins with `test_`.

    Raises:
        PluginError: a plugin couldn't register the strategy.
    """
    refuse_unregistered(kind)

    @cache
    def report() -> Report:
        return check(kind, params, stages=stages, seed=seed, inside=inside)

    shown = places(kind) if stages is None else stages
    cases = [pytest.param(key, at, id=f"{at}-{key}") for at in shown for key in CHECKS]

    @pytest.mark.parametrize(("key", "at"), cases)
    def test(key: str, at: Stage) -> None:
        row = report().row(key, at)
        if row.status == "does not apply":
            pytest.skip(row.note)
        assert row.status == "pass", f"'{kind.name}' at {at}: {row.note}"

    return test


@pytest.fixture
def check_strategy() -> Callable[..., None]:
    """`tokenprune.testing.check_strategy`, failing the test with every fault."""

    def checked(kind: type[PruningStrategy[Any]], *args: Any, **options: Any) -> None:
        found = check(kind, *args, **options)
        if found.failed:
            pytest.fail(str(found), pytrace=False)

    return checked
