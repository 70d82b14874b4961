"""What authors of plugins read or implement."""
