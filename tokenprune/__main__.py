"""`python -m tokenprune` is the `tokenprune` script."""

from tokenprune.cli import main

main()
