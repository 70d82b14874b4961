"""The command line: one module a command, each thin over library functions."""

from tokenprune.cli.app import app, main

__all__ = ["app", "main"]
