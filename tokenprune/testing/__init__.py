"""A test kit for strategies and adapters of one's own: the contract of those that ship.

    from tokenprune.testing import check_strategy

    def test_contract() -> None:
        check_strategy(MyStrategy).require()

`check_encoder_adapter` and `check_mllm_adapter` do it for a family of models. Importing this needs
no pytest and no model library.
"""

from tokenprune.testing.adapters import check_encoder_adapter, check_mllm_adapter
from tokenprune.testing.fakes import fake_tokens
from tokenprune.testing.record import Report, Row
from tokenprune.testing.strategy import check_strategy

__all__ = [
    "Report",
    "Row",
    "check_encoder_adapter",
    "check_mllm_adapter",
    "check_strategy",
    "fake_tokens",
]
