"""Scripts that measure; each writes a JSON record with the environment it ran in."""
