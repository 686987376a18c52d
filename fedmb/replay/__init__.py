"""Batches remembered: rings, samplers, and the blend of fresh and replayed rows."""
