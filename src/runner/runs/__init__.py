"""Carrying a run out, from a config that was found good to its last record."""
