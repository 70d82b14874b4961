"""Pictures of what a plan kept."""
