"""Samples: where questions, pictures and videos come from."""
