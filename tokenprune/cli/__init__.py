"""The command line: one module a command, each thin over library functions."""

import sys

try:
    from tokenprune.cli.app import app, main
except KeyboardInterrupt:  # as later, and not with the traceback of an import
    sys.stderr.write("interrupted.\n")
    sys.exit(130)

__all__ = ["app", "main"]
