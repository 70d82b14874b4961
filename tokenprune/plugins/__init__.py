"""Plugins: what they can implement, who is there, and what runs where."""
