"""Write a checkpoint as a portable model: `python -m vision_zero.export runs/mine/checkpoint-100 exported/`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vision_zero.checkpoint import export_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint-N folder of a run, full or LoRA")
    parser.add_argument("target", type=Path, help="the folder to write; replaced if it is there")
    parser.add_argument("--base", help="base model, if the checkpoint does not say which it was trained from")
    options = parser.parse_args()
    try:
        print(export_checkpoint(options.checkpoint, options.target, options.base))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
