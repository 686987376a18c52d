"""Reference tasks on real or generated data."""
