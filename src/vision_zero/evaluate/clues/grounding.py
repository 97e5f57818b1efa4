"""Are clues true, do they tell the picture from others, do they copy? Known where the scene is described.

A clue is judged by its claims, the objects it names (`red cube`), against the civilians' image:

    true       it names at least one object, and the image shows every object that it names
    telling    how well a true clue tells this picture from the others of the set: the share of the other pictures of
               which it is not true. 0 for a clue that is not true
    copied     somebody said it before in the game: all its claims, or for a clue without claims its words
    claimless  it names no object: counted here, and as not true
    unreadable nothing could be read from the reply; also claimless, never copied

All are means over the clues of a role in one game, then over games: a game is what intervals resample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from vision_zero.evaluate.bootstrap import Interval
from vision_zero.types import Game, ImagePair, Role


@dataclass(frozen=True)
class SaidClue:
    """A public clue: who said it, and what. A played and a recorded game are both a list of these."""

    seat: int
    text: str
    readable: bool = True


@dataclass(frozen=True)
class ClueTruth:
    """Means over the clues of one role in one game, each in 0..1; see the module."""

    true: float
    telling: float
    copied: float
    claimless: float
    unreadable: float


TRUTH_FIGURES = tuple(field.name for field in fields(ClueTruth))

TruthByRole = Mapping[Role, ClueTruth]


def is_described(pair: ImagePair) -> bool:
    """Whether the source says what the pair's image shows."""
    return "original_scene" in pair.meta or "objects" in pair.meta


class Gallery:
    """The described pictures of a set, by pair id: what a claim is held against.

    Raises ValueError for a set without any picture, and `civilian_objects`' for a pair without a description.
    """

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

    def telling(self, pair_id: str, said: frozenset[str]) -> float:
        """The share of the other pictures that do not show what is said truly of this one; 0 if it is not true."""
        if not self.shows(pair_id, said) or len(self._objects) == 1:
            return 0.0
        if said not in self._shown_by:
            self._shown_by[said] = sum(said <= objects for objects in self._objects.values())
        return (len(self._objects) - self._shown_by[said]) / (len(self._objects) - 1)

    def judge_clues(self, pair_id: str, clues: Sequence[SaidClue]) -> list[ClueTruth]:
        """Each clue of one game by itself, in the order they were said."""
        judged = []
        for clue, copied in zip(clues, copies(clues), strict=True):
            said = frozenset(claims(clue.text)) if clue.readable else frozenset()
            judged.append(
                ClueTruth(
                    true=float(self.shows(pair_id, said)),
                    telling=self.telling(pair_id, said),
                    copied=float(copied),
                    claimless=float(not said),
                    unreadable=float(not clue.readable),
                )
            )
        return judged

    def judge(self, pair_id: str, spy: int, clues: Sequence[SaidClue]) -> dict[Role, ClueTruth]:
        """By role, for the clues of one game in the order they were said."""
        judged: dict[Role, list[ClueTruth]] = {role: [] for role in Role}
        for clue, truth in zip(clues, self.judge_clues(pair_id, clues), strict=True):
            judged[Role.SPY if clue.seat == spy else Role.CIVILIAN].append(truth)
        return {role: _mean(of_role) for role, of_role in judged.items() if of_role}


def copies(clues: Sequence[SaidClue]) -> list[bool]:
    """Of every clue of one game, whether it was said before. This needs no description of the picture."""
    copied = []
    heard: set[str] = set()
    for clue in clues:
        words = frozenset(claims(clue.text)) or frozenset({" ".join(clue.text.lower().split())})
        copied.append(clue.readable and words <= heard)
        if clue.readable:
            heard |= words
    return copied


def _mean(clues: Sequence[ClueTruth]) -> ClueTruth:
    return ClueTruth(**{name: sum(getattr(clue, name) for clue in clues) / len(clues) for name in TRUTH_FIGURES})


def said_in_game(game: Game) -> list[SaidClue]:
    return [SaidClue(clue.turn.seat, clue.text, clue.readable) for clue in game.clues]


def said_in_record(record: Mapping[str, Any]) -> list[SaidClue]:
    """The clues of a line of games/step-*.jsonl."""
    return [SaidClue(clue["seat"], clue["clue"], clue["readable"]) for clue in record["clues"]]


def truth_of_game(game: Game, gallery: Gallery) -> dict[Role, ClueTruth]:
    return gallery.judge(game.pair.id, game.spy, said_in_game(game))


def truth_figures(games: Sequence[TruthByRole]) -> dict[str, Interval]:
    """`civilian/true` ... `spy/unreadable`, over games."""
    return {
        f"{role.value}/{name}": Interval.of([getattr(game[role], name) for game in games])
        for role in (Role.CIVILIAN, Role.SPY)
        for name in TRUTH_FIGURES
    }


COLOURS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")


SHAPES = ("cube", "sphere", "cylinder")


_CLAIM = re.compile(rf"\b({'|'.join(COLOURS)})\W+({'|'.join(SHAPES)})\b", re.IGNORECASE)


def claims(clue: str) -> list[str]:
    """The objects that a clue names: every colour that stands directly before a shape, as `red cube`."""
    return [f"{colour} {shape}".lower() for colour, shape in _CLAIM.findall(clue)]


def civilian_objects(pair: ImagePair) -> list[str]:
    """Names (`red cube`) of what the civilians' image shows. Raises ValueError if the pair has no description."""
    return [_name(one) for one in _described(pair)]


def _described(pair: ImagePair) -> list[dict[str, Any]]:
    """The objects of a NAME_comparison.json, or of a scene of CLEVR's own scene file."""
    scene = pair.meta.get("original_scene", pair.meta)
    objects: list[dict[str, Any]] | None = scene.get("objects")
    if objects is None:
        raise ValueError(f"pair {pair.id!r} has no scene description, so an OraclePlayer cannot know what is in it")
    return objects


def _name(one: dict[str, Any]) -> str:
    return f"{one['color']} {one['shape']}"
