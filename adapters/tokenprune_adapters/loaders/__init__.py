"""Loaders behind `--model`, one a library."""
