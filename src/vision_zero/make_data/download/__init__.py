"""Published sets of image pairs, fetched into a folder that training reads."""
