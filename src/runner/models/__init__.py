"""The models of the built-in experiments."""
