"""Policies that generate with vLLM: in the training process, or on a server."""
