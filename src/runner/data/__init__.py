"""Batches that know their position, and the built-in data."""
