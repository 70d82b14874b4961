"""What happens around and inside an LLM, layer by layer."""
