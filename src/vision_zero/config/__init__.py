"""Options of a run: what they are, what is refused, how they are parsed."""
