"""What happens between the encoder and the LLM."""
