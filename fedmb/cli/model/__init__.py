"""Versions of a run's model: list them, say what trained one, take one out."""
