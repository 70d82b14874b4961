"""A test kit for strategies of one's own: the contract that the strategies that ship are held to.

    from tokenprune.testing import check_strategy

    def test_contract() -> None:
        check_strategy(MyStrategy).require()

Importing this needs no pytest and no model library.
"""

from tokenprune.testing.fakes import fake_tokens
from tokenprune.testing.record import Report, Row
from tokenprune.testing.strategy import check_strategy

__all__ = ["Report", "Row", "check_strategy", "fake_tokens"]
