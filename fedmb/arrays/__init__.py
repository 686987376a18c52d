"""Arrays of a model: what NumPy lacks, one buffer a dtype, bytes."""
