"""Comparing pruning plans with each other and with dense, on answers and on cost."""

from tokenprune.lab.compare.record import Comparison, write_record
from tokenprune.lab.compare.run import compare
from tokenprune.lab.compare.settings import Settings
from tokenprune.lab.compare.source import Source
from tokenprune.lab.compare.table import tables

__all__ = ["Comparison", "Settings", "Source", "compare", "tables", "write_record"]
