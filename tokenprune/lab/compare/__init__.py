"""Comparing pruning plans with each other and with dense, on answers and on cost."""

from tokenprune.lab.compare.record import Comparison, write_record
from tokenprune.lab.compare.run import Settings, compare
from tokenprune.lab.compare.table import WIDE, tables

__all__ = ["WIDE", "Comparison", "Settings", "compare", "tables", "write_record"]
