"""Makers of image pairs: CLEVR scenes, charts, edited photographs, and the download of published sets."""
