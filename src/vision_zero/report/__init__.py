"""Reports on a run: one HTML page, a summary in the terminal, pictures of curves and games."""
