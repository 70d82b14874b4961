from tokenprune_example import FeatureNorm

from tokenprune.testing.pytest_plugin import strategy_contract

test_contract = strategy_contract(FeatureNorm, {"order": 1})
