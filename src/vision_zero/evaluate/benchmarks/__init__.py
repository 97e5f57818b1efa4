"""Benchmarks of the paper, through VLMEvalKit or lmms-eval."""
