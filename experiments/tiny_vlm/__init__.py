"""What makes and measures the tiny model of data/tiny_vlm."""
