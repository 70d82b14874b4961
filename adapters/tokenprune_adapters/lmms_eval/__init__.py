"""Chat models with a plan as a model argument, for the evaluation harness lmms-eval."""
