r"""Prompts of the game, rendered from template files.

All prompts of one game share the longest possible prefix, which a serving engine can reuse: rules (the same words for
every player and for the voters), then the public clues in the order they were said (append-only), and only then round,
seat, role and own earlier reasoning.

A template is one text file of named sections, `== name ==` on a line of its own, with `$placeholders`.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from vision_zero.game.spy_game import view_of
from vision_zero.types import COMPACT, DOMAINS, TEMPLATES, Game, Prompt, Role, Turn

_SECTIONS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
PLACEHOLDERS: Mapping[str, frozenset[str]] = {section: frozenset(names) for section, names in _SECTIONS.items()}
"""Sections of a template, and the placeholders that each may use."""
SHIPPED_TEMPLATES = (*DOMAINS, COMPACT)


@dataclass(frozen=True)
class Template:
    """Sections of one template file, checked."""

    name: str
    sections: Mapping[str, string.Template]

    def fill(self, section: str, **values: object) -> str:
        return self.sections[section].substitute({key: str(value) for key, value in values.items()})


def parse_template(text: str, name: str) -> Template:
    """Raises ValueError, naming the file, for a missing or unknown section or placeholder."""
    parts = re.split(r"^== *(\w+) *==[ \t]*$\n?", text, flags=re.MULTILINE)
    names, bodies = parts[1::2], parts[2::2]
    sections = {key: string.Template(body.strip("\n")) for key, body in zip(names, bodies, strict=True)}
    if len(sections) != len(names) or set(sections) != set(PLACEHOLDERS):
        missing = sorted(set(PLACEHOLDERS) - set(sections))
        unknown = sorted(set(sections) - set(PLACEHOLDERS))
        raise ValueError(
            f"template {name}: missing sections {missing}, unknown sections {unknown}"
            + (", and a section that stands twice" if len(sections) != len(names) else "")
        )
    for key, section in sections.items():
        if not section.is_valid():
            raise ValueError(f"template {name}, section {key}: '$' without a placeholder; write '$$' for a dollar")
        if strange := sorted(set(section.get_identifiers()) - PLACEHOLDERS[key]):
            raise ValueError(f"template {name}, section {key}: unknown placeholders {strange}")
    if "clue" not in sections["clue_line"].get_identifiers():
        raise ValueError(f"template {name}, section clue_line: $clue is not there, so nobody would hear a clue")
    return Template(name, sections)


@lru_cache(maxsize=16)
def load_template(name_or_path: str) -> Template:
    """The template of a domain by its name, `compact`, or a template file by its path."""
    if name_or_path in SHIPPED_TEMPLATES:
        file = f"{name_or_path}.txt"
        return parse_template((TEMPLATES / file).read_text("utf-8"), file)
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(f"template {name_or_path!r} is neither a file nor one of {', '.join(SHIPPED_TEMPLATES)}")
    return parse_template(path.read_text("utf-8"), str(path))


def render(game: Game, turn: Turn, template: str = "auto") -> Prompt:
    """The prompt of `turn`, given all clues so far; `auto` is the template of the pair's domain.

    A player sees the reasoning of nobody but itself. `spy_game.answer` has cleaned all text of control tokens.
    """
    words, rules = load_template(game.pair.domain if template == "auto" else template), game.rules
    counts = {"n_players": rules.n_players, "n_civilians": rules.n_civilians, "n_rounds": rules.n_rounds}
    said = [words.fill("clue_line", round=c.turn.round, seat=c.turn.seat, clue=c.text) for c in game.clues]
    public = "\n".join([words.fill("rules", **counts), words.fill("clues"), *(said or [words.fill("no_clues")])])
    own = [clue for clue in game.clues if clue.turn.seat == turn.seat and clue.reasoning]
    thoughts = "\n".join(words.fill("thoughts", round=clue.turn.round, reasoning=clue.reasoning) for clue in own)
    if turn.stage == "decision":
        if turn.seat == 0:
            private = words.fill("observer", n_players=rules.n_players)
        else:
            private = words.fill("voter", seat=turn.seat, n_players=rules.n_players, thoughts=thoughts)
    else:
        section = f"spy_{game.spy_view}" if game.role(turn.seat) is Role.SPY else "civilian"
        private = words.fill(section, round=turn.round, seat=turn.seat, n_rounds=rules.n_rounds, thoughts=thoughts)
    return Prompt(view_of(game, turn), re.sub(r"\n{3,}", "\n\n", f"{public}\n\n{private}"))
