"""What the training of both bundled models has in common: a run, questions asked, a card."""
