"""The GPU checklist: what a training step costs on one card beside what it must cost; see docs/gpu-checklist.md."""
