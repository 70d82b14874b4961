"""What happens inside a vision encoder, block by block."""
