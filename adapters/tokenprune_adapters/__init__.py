"""The model families that ship with tokenprune; plugins like any other."""
