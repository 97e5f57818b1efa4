"""VLMEvalKit, unmodified, in an environment of its own."""
