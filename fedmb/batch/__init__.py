"""What a mini-batch is, and where one comes from."""
