"""Everything that measures, compares, draws and trains; nothing below knows it."""
