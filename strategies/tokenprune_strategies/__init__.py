"""The pruning methods that ship with tokenprune; plugins like any other."""
