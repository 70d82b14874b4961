"""Tiny random models of every served family, with the inputs that their processors would make."""
