"""How the bundled checkpoints of learned strategies are made."""
