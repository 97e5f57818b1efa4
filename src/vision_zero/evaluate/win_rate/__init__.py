"""Win rate of a model against the frozen start model."""
