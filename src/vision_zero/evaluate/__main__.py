"""Evaluate what was trained: `python -m vision_zero.evaluate win-rate runs/mine --drawn 500`.

win-rate MODEL ...   trained models against the frozen start model, as the table and as the spy, with cross-play
clues RUN            whether the clues of a run were true, told pictures apart, or copied, over training
vlmevalkit MODEL ... trained models and their base on benchmarks, through VLMEvalKit or lmms-eval
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from safetensors import SafetensorError

from vision_zero.data.pairs import BadImageError


def win_rate(arguments: Sequence[str]) -> None:
    from vision_zero.evaluate.win_rate.options import parse

    options = parse(arguments)
    from vision_zero.evaluate.win_rate.main import compare  # imports torch, which --help need not wait for

    compare(options)


def clues(arguments: Sequence[str]) -> None:
    from vision_zero.evaluate.clues.main import main

    main(arguments)


def vlmevalkit(arguments: Sequence[str]) -> None:
    from vision_zero.evaluate.benchmarks.main import main

    main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "win-rate": win_rate,
    "clues": clues,
    "vlmevalkit": vlmevalkit,
}


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in COMMANDS:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
        print(__doc__, file=sys.stdout if asked_for_help else sys.stderr)
        sys.exit(0 if asked_for_help else 2)
    try:
        COMMANDS[arguments[0]](arguments[1:])
    except (ValueError, OSError, BadImageError, SafetensorError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
