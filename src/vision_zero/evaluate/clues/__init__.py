"""What clues say: true, discriminative or copied."""
