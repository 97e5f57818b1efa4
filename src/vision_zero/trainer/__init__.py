"""Iterative-SPO as a subclass of TRL's GRPOTrainer."""
