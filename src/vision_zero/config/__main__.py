"""Write docs/configuration.md from the options: `python -m vision_zero.config > docs/configuration.md`.

A test holds the page to this output, so it cannot say anything else than `options.py`.
"""

import argparse
import inspect
import re
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from vision_zero.config.checks import NOT_USED
from vision_zero.config.game import GameConfig
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.rollout.stopping import end_with_reader

HEAD = Path(__file__).with_name("head.md").read_text("utf-8")


def default_of(option: Field[Any]) -> str:
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
