"""Remove visual tokens from multimodal LLMs."""
