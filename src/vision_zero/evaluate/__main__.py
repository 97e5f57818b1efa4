"""Evaluate what was trained: `python -m vision_zero.evaluate win-rate runs/mine --drawn 500`.

win-rate MODEL ...   trained models against the frozen start model, as the table and as the spy, with cross-play
cross-play MODEL ... civilians of every trained model with voters of every other, against the start as the spy
clues RUN            shares of a run's clues that were true, discriminative or copied, over training
vlmevalkit MODEL ... trained models and their base on benchmarks, through VLMEvalKit or lmms-eval
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from safetensors import SafetensorError

from vision_zero.data.pairs import BadImageError
from vision_zero.rollout.policy import NotFiniteError
from vision_zero.rollout.stopping import end_with_reader

COMMANDS = {
    "win-rate": "win_rate.main",
    "cross-play": "win_rate.cross_play",
    "clues": "clues.main",
    "vlmevalkit": "benchmarks.main",
}
"""Sub-command -> the module that runs it."""


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in COMMANDS:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
        print(__doc__, file=sys.stdout if asked_for_help else sys.stderr)
        if not asked_for_help:
            print(f"error: no command {' '.join(arguments[:1])}: give one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(0 if asked_for_help else 2)
    try:
        import_module(f"vision_zero.evaluate.{COMMANDS[arguments[0]]}").main(arguments[1:])
    except (ValueError, OSError, BadImageError, SafetensorError, NotFiniteError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    end_with_reader()
    main()
