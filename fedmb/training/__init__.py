"""The local step and what a client does in a round."""
