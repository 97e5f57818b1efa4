"""Grounding of clues in the image, where the scene is described.

A clue is judged by its claims, the objects it names (`red cube`), against the civilians' image:

    true            it names at least one object, and the image shows every object that it names
    discriminative  how well a true clue tells this image from the others of the set: the share of the other images of
                    which it is not true. 0 for a clue that is not true
    copied          somebody said it before in the game: all its claims, or for a clue without claims its words
    no_claim        it names no object: counted here, and as not true
    unparsed        no clue could be parsed from the completion; also no_claim, never copied

All are means over the clues of a role in one game, then over games; intervals resample image pairs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from vision_zero.evaluate.bootstrap import Interval
from vision_zero.types import Game, ImagePair, Role

COLOURS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
SHAPES = ("cube", "sphere", "cylinder")
CLAIM = re.compile(rf"\b({'|'.join(COLOURS)})\W+({'|'.join(SHAPES)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class SaidClue:
    """A public clue of a game, played or recorded."""

    seat: int
    text: str
    parsed: bool = True


@dataclass(frozen=True)
class ClueGrounding:
    """Means over the clues of one role in one game, each in 0..1; see the module."""

    true: float
    discriminative: float
    copied: float
    no_claim: float
    unparsed: float


GROUNDING_FIGURES = tuple(field.name for field in fields(ClueGrounding))

GroundingByRole = Mapping[Role, ClueGrounding]


def is_described(pair: ImagePair) -> bool:
    return "original_scene" in pair.meta or "objects" in pair.meta


class SceneIndex:
    """Objects of the pictures of a set, by pair id. Raises ValueError for none, and one that is not described."""

    def __init__(self, pairs: Iterable[ImagePair]) -> None:
        self._objects = {pair.id: frozenset(civilian_objects(pair)) for pair in pairs}
        self._shown_by: dict[frozenset[str], int] = {}
        if not self._objects:
            raise ValueError("clues are judged against pictures, and there are none")

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._objects

    def shows(self, pair_id: str, said: frozenset[str]) -> bool:
        """Whether the picture shows at least one object that is named, and all of them."""
        return bool(said) and said <= self._objects[pair_id]

    def discriminative(self, pair_id: str, said: frozenset[str]) -> float:
        """Share of the other pictures that do not show what is said truly of this one; 0 if it is not true."""
        if not self.shows(pair_id, said) or len(self._objects) == 1:
            return 0.0
        if said not in self._shown_by:
            self._shown_by[said] = sum(said <= objects for objects in self._objects.values())
        return (len(self._objects) - self._shown_by[said]) / (len(self._objects) - 1)

    def judge_clues(self, pair_id: str, clues: Sequence[SaidClue]) -> list[ClueGrounding]:
        """The grounding of each clue of one game, in the order they were said."""
        said = [frozenset(claims(clue.text)) if clue.parsed else frozenset() for clue in clues]
        return [
            ClueGrounding(
                true=float(self.shows(pair_id, own)),
                discriminative=self.discriminative(pair_id, own),
                copied=float(copied),
                no_claim=float(not own),
                unparsed=float(not clue.parsed),
            )
            for clue, own, copied in zip(clues, said, copied_clues(clues), strict=True)
        ]

    def judge(self, pair_id: str, spy: int, clues: Sequence[SaidClue]) -> dict[Role, ClueGrounding]:
        """The grounding of the clues of one game by role. `clues` are in the order they were said."""
        judged: dict[Role, list[ClueGrounding]] = {role: [] for role in Role}
        for clue, grounding in zip(clues, self.judge_clues(pair_id, clues), strict=True):
            judged[Role.SPY if clue.seat == spy else Role.CIVILIAN].append(grounding)
        return {
            role: ClueGrounding(*(sum(values) / len(own) for values in zip(*map(astuple, own), strict=True)))
            for role, own in judged.items()
            if own
        }


def copied_clues(clues: Sequence[SaidClue]) -> list[bool]:
    """Whether each clue of one game was said before in it. This needs no description of the picture."""
    copied = []
    heard: set[str] = set()
    for clue in clues:
        words = frozenset(claims(clue.text)) or frozenset({" ".join(clue.text.lower().split())})
        copied.append(clue.parsed and words <= heard)
        if clue.parsed:
            heard |= words
    return copied


def roles_of_policy(record: Mapping[str, Any]) -> tuple[Role, ...]:
    """The roles whose clues in a recorded game are the trained policy's, not a past player's."""
    past = (record.get("past") or {}).get("role")
    return tuple(role for role in Role if past not in ("clue", role.value))


def said_in_record(record: Mapping[str, Any]) -> list[SaidClue]:
    """The clues of a line of games/step-*.jsonl."""
    return [SaidClue(clue["seat"], clue["clue"], clue["parsed"]) for clue in record["clues"]]


def grounding_of_game(game: Game, scene_index: SceneIndex) -> dict[Role, ClueGrounding]:
    said = [SaidClue(clue.turn.seat, clue.text, clue.parsed) for clue in game.clues]
    return scene_index.judge(game.pair.id, game.spy, said)


def grounding_figures(games: Sequence[GroundingByRole], pairs: Sequence[str] | None = None) -> dict[str, Interval]:
    """Means over games, each on its pair of `pairs`, with intervals, named `civilian/true` and so on."""
    return {
        f"{role.value}/{name}": Interval.of_mean([getattr(game[role], name) for game in games], pairs=pairs)
        for role in (Role.CIVILIAN, Role.SPY)
        for name in GROUNDING_FIGURES
    }


def claims(clue: str) -> list[str]:
    """Objects that a clue names: every colour that stands directly before a shape, as `red cube`."""
    return [f"{colour} {shape}".lower() for colour, shape in CLAIM.findall(clue)]


def civilian_objects(pair: ImagePair) -> list[str]:
    """Names (`red cube`) of what the civilians' image shows. Raises ValueError if the pair has no description."""
    scene = pair.meta.get("original_scene", pair.meta)
    objects: list[dict[str, Any]] | None = scene.get("objects")
    if objects is None:
        raise ValueError(f"pair {pair.id!r} has no scene description, so an OraclePlayer cannot know what is in it")
    return [object_name(one) for one in objects]


def object_name(one: Mapping[str, Any]) -> str:
    return f"{one['color']} {one['shape']}"
