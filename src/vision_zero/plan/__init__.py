"""Whether training fits on which GPUs, and how long an iteration takes at least: `python -m vision_zero.plan`."""
