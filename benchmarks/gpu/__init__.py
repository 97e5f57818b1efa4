"""The GPU checklist: the cost of a training step on one card beside its lower bound; see docs/hardware.md."""
