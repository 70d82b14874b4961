"""Training, export and evaluation of the bundled reference model."""
