"""Rendered scenes of CLEVR objects, two of them changed."""
