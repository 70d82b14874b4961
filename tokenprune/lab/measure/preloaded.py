"""Imported once by the process that others are forked from; see `fresh_processes`."""

from contextlib import suppress
from importlib import import_module

from tokenprune.lab.measure.processes import PRELOADED

for _name in PRELOADED:
    # a library that is missing or broken is named by the process that needs it
    with suppress(Exception):
        import_module(_name)
