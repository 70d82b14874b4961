"""Everything that measures a model that carries a plan."""
