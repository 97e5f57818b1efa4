"""Readers of image pairs."""
