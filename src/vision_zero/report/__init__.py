"""Reports on a run: one HTML page, a summary in the terminal, pictures of curves and games."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m vision_zero.report`. Returns the exit status."""
    from vision_zero.report.__main__ import main as run

    return run(argv)
