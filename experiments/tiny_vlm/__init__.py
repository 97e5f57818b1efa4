"""Training and measurement of the tiny model of data/tiny_vlm."""
