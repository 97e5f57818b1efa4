"""Where image pairs come from."""
