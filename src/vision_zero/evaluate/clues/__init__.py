"""Grounding of clues: true, discriminative, copied."""
