"""One check in a process of its own: `python -m benchmarks.gpu.run_check --kind steps --model 3b --mode lora ...`.

Each line of its result is appended to --results as soon as it is there, so that a crash after it loses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["machine", "steps", "text"], required=True)
    parser.add_argument("--name", required=True, help="of the check, for its lines")
    parser.add_argument("--model", choices=["3b", "7b"], default="3b")
    parser.add_argument("--mode", choices=["full", "lora"], default="lora")
    parser.add_argument("--policy", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--results", type=Path, required=True)
    Settings.add_to(parser)
    options = parser.parse_args()
    settings = Settings.of(options)

    def write(line: dict[str, Any]) -> None:
        found = line.pop("problems", [])
        status = "failed: " + "; ".join(found) if found else "passed"
        with options.results.open("a") as file:
            file.write(json.dumps({"check": options.name, "status": status, **line}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    if options.kind == "machine":
        from benchmarks.gpu.machine import measure_machine

        write(measure_machine())
        return
    from benchmarks.gpu.random_models import published, tiny, write_folder
    from vision_zero.plan.shape import ModelShape

    config = published(options.model) if options.size == "full" else tiny(published(options.model))
    shape = ModelShape.of(config)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        write_folder(config, folder)
        if options.kind == "text":
            from benchmarks.gpu.text_rollout import check_text_rollout

            check_text_rollout(folder, shape, settings, write)
        else:
            from benchmarks.gpu.train_steps import check_steps

            check_steps(folder, shape, options.mode, options.policy, settings, write)


if __name__ == "__main__":
    main()
