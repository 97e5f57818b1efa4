"""Whether a model fits and how long an iteration takes, by arithmetic: `python -m vision_zero.plan --model NAME`."""

import argparse
import json
import sys

from vision_zero.plan.fit import OPTIONS, check
from vision_zero.plan.say import page, preset
from vision_zero.plan.shape import read_shape


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vision_zero.plan", description=__doc__)
    for name, (default, meaning, *_) in OPTIONS.items():
        kind = json.loads if isinstance(default, bool) else type(default)
        parser.add_argument(f"--{name}", type=kind, default=default, metavar=str(default), help=meaning)
    parser.add_argument("--preset", action="store_true", help="the options of run_lora_1gpu.sh that fit, or an error")
    s = parser.parse_args(arguments)
    say = preset if vars(s).pop("preset") else page
    try:
        check(s)
        print(say(read_shape(s.model), s))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
