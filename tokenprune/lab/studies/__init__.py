"""Studies: models x tasks x plans from one file, as cells that are run once and recorded."""

from tokenprune.lab.studies.load import Cell, cells, load_study
from tokenprune.lab.studies.model import Study
from tokenprune.lab.studies.run import Finished, run_study
from tokenprune.lab.studies.runners import LocalRunner, Runner
from tokenprune.lab.studies.store import Record, Store

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
