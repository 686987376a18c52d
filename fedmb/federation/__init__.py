"""Messages, rounds, checkpoints: the Flower seam."""
