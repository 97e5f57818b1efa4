"""Makers of image pairs: CLEVR scenes, charts, edited photographs, and the download of published sets."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m vision_zero.make_data`. Returns the exit status."""
    from vision_zero.make_data.__main__ import main as run

    return run(argv)
