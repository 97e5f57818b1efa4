"""Options of a run: definitions, checks, parser."""
