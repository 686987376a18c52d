"""Process folder of the streams."""
