"""Write docs/configuration.md from the options: `python -m vision_zero.config > docs/configuration.md`.

A test holds the page to this output, so it cannot say anything else than `options.py`.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from dataclasses import MISSING, Field, fields
from typing import Any

from vision_zero.config.checks import NOT_USED
from vision_zero.config.game import GameConfig
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.rollout.stopping import end_with_reader

HEAD = """# Options

This page answers: which options are there, what is each one's default, and where does it come from? Which of TRL's are
refused? `python -m vision_zero.config` makes it from the code; a test compares. Flags are `--name value`; a YAML file
given by `--config` has `name: value`. Flags win. Names that do not exist are refused. With `--resume` or
`--resume_from`, every option that neither gives is that of the run in `--output_dir`, from its `config.yaml`.

"paper" is arXiv 2509.25541, "code" its public repository at commit fa3c01c, "TRL" the library's default. What has no
source in brackets is a choice of this repository.

Beside the options below, `python -m vision_zero.train` takes every option of TRL 1.16's `GRPOConfig` (output, saving,
logging, DeepSpeed, optimizer) and of its `ModelConfig` (`--model_name_or_path`, `--dtype`, `--attn_implementation`,
`--use_peft` and the `--lora_*` options); `--help` lists them all. `max_steps`, `gradient_accumulation_steps` and
`steps_per_generation` follow from the ones below. `--use_vllm` plays the games with vLLM: docs/training.md. An option
that would not have its documented effect in this trainer is refused by name: the last table. A test holds that each of
TRL's is used, passed on or refused. Options of vLLM are refused without `--use_vllm`, those of LoRA without
`--use_peft`, and full training of 16-bit weights (`--dtype bfloat16`) where no optimizer steps float32 masters, as
DeepSpeed's with `--bf16 true` does: at 1e-5 most steps would be rounded away.
"""


def default_of(option: Field[Any]) -> str:
    """The default in words."""
    value = option.default
    if option.default_factory is not MISSING or value in (None, ""):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def sections(config: type) -> list[tuple[str, list[str]]]:
    """The options that a class declares itself, under the comments that stand above them in its source."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in inspect.getsource(config).splitlines():
        if comment := re.fullmatch(r"    # (.+)", line):
            found.append((comment[1], []))
        elif name := re.match(r"    (\w+): .*= option", line):
            found[-1][1].append(name[1])
        elif line.startswith("    def "):
            break
    return [(title, names) for title, names in found if names]


def table(config: type, names: list[str]) -> str:
    options = {option.name: option for option in fields(config)}
    lines = ["| option | default | meaning and source |", "|---|---|---|"]
    for name in names:
        meaning = options[name].metadata["help"].replace("|", "\\|")
        lines.append(f"| `{name}` | `{default_of(options[name])}` | {meaning} |")
    return "\n".join(lines)


def page() -> str:
    """docs/configuration.md."""
    parts = [HEAD]
    for heading, config in (("Images and game", GameConfig), ("Iterative-SPO", IterativeSPOConfig)):
        parts.append(f"## {heading}\n")
        for title, names in sections(config):
            if title:
                parts.append(f"### {title}\n")
            parts.append(table(config, names) + "\n")
    rows = {why: ", ".join(f"`{name}`" for name in NOT_USED if NOT_USED[name] == why) for why in NOT_USED.values()}
    parts.append(
        "## Refused\n\n| option | reason |\n|---|---|\n"
        + "".join(f"| {rows[why]} | {why.removeprefix('is not supported: ')} |\n" for why in rows)
    )
    return "\n".join(parts)


if __name__ == "__main__":
    end_with_reader()
    parser = argparse.ArgumentParser(prog="python -m vision_zero.config", description=__doc__)
    parser.parse_args()
    sys.stdout.write(page())
