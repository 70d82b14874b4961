"""Model families of the library transformers."""
