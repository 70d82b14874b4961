"""Studies: models x tasks x plans from one file, as cells that are run once and recorded."""

from tokenprune.studies.load import Cell, cells, load_study
from tokenprune.studies.model import Study
from tokenprune.studies.run import Finished, run_study
from tokenprune.studies.runners import LocalRunner, Runner
from tokenprune.studies.store import Record, Store

__all__ = [
    "Cell",
    "Finished",
    "LocalRunner",
    "Record",
    "Runner",
    "Store",
    "Study",
    "cells",
    "load_study",
    "run_study",
]
