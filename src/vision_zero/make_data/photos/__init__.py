"""Photographs, edited with and without a model."""
