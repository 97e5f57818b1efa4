"""vLLM as a player: in the training process, or behind a server."""
