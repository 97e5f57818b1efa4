"""Instructions of a learned editor: lines of a template file, or proposals for each photograph.

A template file (.txt) holds one instruction a line, `#` begins a comment, and of `{red|green}` one is taken. A file of
proposals (.jsonl, written by `run_scripts/propose_edits.py`) holds `{"image", "instruction"}` a line; an image may
have several. A null instruction is a proposal that could not be read.
"""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision_zero.data.errors import PairSourceError
from vision_zero.make_data.maker import Rejected

DEFAULT_TEMPLATES = Path(__file__).parent / "templates" / "photos.txt"
MAX_CHARS = 500
_CHOICE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Instructions:
    """Templates for all photographs, or proposals by the name of the image; the other is empty."""

    templates: tuple[str, ...] = ()
    proposals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def draw(self, image: str, rng: random.Random) -> str:
        """An instruction for the image of this name. Raises Rejected if none was proposed for it."""
        if self.templates:
            return filled(rng.choice(self.templates), rng)
        if not self.proposals.get(image):
            raise Rejected("no instruction was proposed")
        return rng.choice(self.proposals[image])


def filled(template: str, rng: random.Random) -> str:
    """The template with one choice of each `{a|b}`."""
    return _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)


def read_instructions(path: Path) -> Instructions:
    """Read either kind of file. Raises PairSourceError, with the line's number, for a bad or an empty one."""
    if path.suffix.lower() not in {".txt", ".jsonl"}:
        raise PairSourceError(f"{path}: instructions are a .txt file of templates or a .jsonl file of proposals")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PairSourceError(f"{path}: cannot be read: {error}") from error
    numbered = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix.lower() == ".txt":
        read = Instructions(tuple(_template(line, where) for where, line in numbered if not line.startswith("#")))
    else:
        read = Instructions(proposals=_proposals(numbered))
    if not read.templates and not any(read.proposals.values()):
        raise PairSourceError(f"{path}: no instructions")
    return read


def _template(line: str, where: str) -> str:
    if not all(choice.strip() for found in _CHOICE.findall(line) for choice in found.split("|")):
        raise PairSourceError(f"{where}: a choice is written {{a|b}}, none of them empty, got {line!r}")
    if set(_CHOICE.sub("", line)) & set("{}"):
        raise PairSourceError(f"{where}: a brace without its partner, or inside another: {line!r}")
    return _checked(line, where)


def _proposals(numbered: list[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for where, line in numbered:
        try:
            record: Any = json.loads(line)
        except ValueError as error:
            raise PairSourceError(f"{where}: not valid JSON: {error}") from error
        image = record.get("image") if isinstance(record, dict) else None
        if not isinstance(image, str) or not image or "instruction" not in record:
            raise PairSourceError(
                f'{where}: expected {{"image": text, "instruction": text or null}}, got {line[:80]!r}'
            )
        told = record["instruction"]
        found[image] = found.get(image, ()) + (() if told is None else (_checked(told, where),))
    return found


def _checked(instruction: object, where: str) -> str:
    if not isinstance(instruction, str) or not instruction.strip():
        raise PairSourceError(f"{where}: an instruction must be a text that is not empty, got {instruction!r}")
    if len(instruction) > MAX_CHARS or not instruction.isprintable():
        raise PairSourceError(f"{where}: an instruction is one line of at most {MAX_CHARS} characters")
    return instruction.strip()
