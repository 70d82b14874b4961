"""What adapters of several libraries need."""
