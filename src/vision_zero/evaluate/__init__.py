"""Evaluation of trained models: win rates, the grounding of clues, and benchmarks."""
