"""Evaluation of trained models: win rates, the grounding of clues, and benchmarks."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    from vision_zero.evaluate.__main__ import main as run

    run(arguments)
