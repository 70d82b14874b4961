"""What the training of the bundled models has in common: a run, questions asked, a card."""
