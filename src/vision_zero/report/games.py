"""Recorded games of a run as the page shows them: clues and votes, their grounding, and images, each once.

Texts stay text: nothing here makes markup. Images are reduced and become data URIs, one for equal pixels.
"""

import base64
import hashlib
import io
import random
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vision_zero import run_folder
from vision_zero.evaluate.bootstrap import Interval
from vision_zero.evaluate.clues import grounding
from vision_zero.game.parsing import split_completion
from vision_zero.report.metrics_log import Figures, is_whole
from vision_zero.rollout.game_images import GameImages
from vision_zero.rollout.record import seen_images
from vision_zero.spo.rewards import plurality
from vision_zero.types import GameRules, ImagePair, Role

QUALITY = 85
"""Quality of WebP, 0 to 100."""

Record = dict[str, Any]


def read_games(run: Path, notes: list[str]) -> list[Record]:
    """All games of a run, without tokens, in the order they were played. What is damaged is noted and left out."""
    games: list[Record] = []
    files = sorted((run / run_folder.GAMES).glob("step-*.jsonl"))
    for file in files:
        try:
            records = run_folder.read_json_lines(file)
            is_whole_file = file.read_bytes().endswith(b"\n")
        except (run_folder.RunFolderError, OSError) as error:
            notes.append(f"left out: {error}")
            continue
        if not is_whole_file:
            notes.append(f"{file} ends inside a line: its last game is left out")
        for number, record in enumerate(records, start=1):
            try:
                games.append(shown_fields(record))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                notes.append(
                    f"left out: {file}, line {number} is not a recorded game ({type(error).__name__}: {error})"
                )
    if not files:
        notes.append("no games were recorded (--record_games_every 0, or the run did not get that far)")
    return games


def shown_fields(record: Mapping[str, Any]) -> Record:
    """Fields that the page needs, checked once for it and its scripts. Raises KeyError, TypeError or ValueError."""
    kept = ("step", "stage", "game", "seed", "pair", "domain", "image", "edited", "spy", "spy_view", "rules", "outcome")
    game: Record = {name: record[name] for name in (*kept, "clue_rewards", "clue_advantages")}
    game |= {name: record.get(name) for name in ("failed_edit", "past")}  # absent in records of earlier versions
    of_clues, of_votes = ("seat", "round", "clue", "parsed"), ("seat", "sample", "vote", "reward")
    for turns, names in (("clues", of_clues), ("votes", of_votes)):
        game[turns] = [
            {name: one[name] for name in (*names, "completion")}
            # Prompts have most of their lines in common: each is kept once.
            | {"tokens": len(one["token_ids"]), "prompt": tuple(map(sys.intern, one["prompt"].split("\n")))}
            for one in record[turns]
        ]
    n_players = GameRules(**game["rules"]).n_players
    _check(game, ("stage", "pair", "domain", "image"), lambda value: isinstance(value, str))
    _check(game, ("edited", "failed_edit"), lambda value: value is None or isinstance(value, str))
    _check(game, ("past",), lambda past: past is None or all(isinstance(past[name], str) for name in ("role", "model")))
    _check(game, ("step", "game"), is_whole)
    _check(game, ("seed",), lambda value: type(value) is int)
    _check(game, ("spy",), lambda value: is_whole(value) and 1 <= value <= n_players)
    _check(game, ("spy_view",), lambda value: value in ("blank", "edited", "masked"))
    _check(game, ("clue_rewards", "clue_advantages"), lambda values: _are_numbers(values, n_players))
    _check(game, ("outcome",), lambda votes: isinstance(votes, list) and all(_is_vote(one, n_players) for one in votes))
    for clue in game["clues"]:
        _check(clue, ("clue", "completion"), lambda value: isinstance(value, str))
        _check(clue, ("parsed",), lambda value: isinstance(value, bool))
        _check(clue, ("seat", "round"), is_whole)
    for vote in game["votes"]:
        _check(vote, ("completion",), lambda value: isinstance(value, str))
        _check(vote, ("vote",), lambda value: _is_vote(value, n_players))
        _check(vote, ("seat", "sample"), is_whole)
        _check(vote, ("reward",), lambda value: _are_numbers([value], 1))
    return game


def _check(record: Mapping[str, Any], names: Iterable[str], fits: Callable[[Any], bool]) -> None:
    for name in names:
        if not fits(record[name]):
            raise ValueError(f"{name} is {reprlib.repr(record[name])}")


def _is_vote(value: Any, n_players: int) -> bool:
    return value is None or (is_whole(value) and value <= n_players)


def _are_numbers(values: object, n: int) -> bool:
    """Whether these are `n` numbers. NaN is one: the page shows such a reward as none."""
    return isinstance(values, list) and len(values) == n and all(type(value) in (int, float) for value in values)


def choose_games(games: Sequence[Record], at_most: int) -> list[int]:
    """Numbers of all games, or `at_most` of them: all games of some pairs, so that early and late can be compared.

    Pairs are drawn by a fixed seed; of a pair that does not fit any more, games that are evenly apart are taken.
    """
    by_pair: dict[str, list[int]] = {}
    for number, game in enumerate(games):
        by_pair.setdefault(game["pair"], []).append(number)
    names = sorted(by_pair)
    random.Random("vision-zero/report").shuffle(names)
    chosen: list[int] = []
    for name in names:
        left, own = at_most - len(chosen), by_pair[name]
        chosen += own if len(own) <= left else [own[k * len(own) // left] for k in range(left)]
    return sorted(chosen)


@dataclass(frozen=True)
class JudgedClues:
    """What is true of each clue, by game and clue (names as in game.js), and means by role and iteration."""

    marks: list[list[list[str]]]
    shares: Mapping[int, Figures]


def judge_clues(
    games: Sequence[Record], pairs: Mapping[str, ImagePair], iteration_of: Callable[[Record], int]
) -> JudgedClues:
    """Judge all clues. Grounding needs a description of the picture, copying does not. `shares` are the policy's."""
    described = [pair for pair in pairs.values() if grounding.is_described(pair)]
    scene_index = grounding.SceneIndex(described) if described else None
    marks: list[list[list[str]]] = []
    by_iteration: dict[int, dict[str, list[tuple[float, str]]]] = {}
    for game in games:
        said = grounding.said_in_record(game)
        if scene_index is not None and game["pair"] in scene_index:
            judged = [asdict(one) for one in scene_index.judge_clues(game["pair"], said)]
        else:
            judged = [{"copied": float(copied)} for copied in grounding.copied_clues(said)]
        marks.append([_marks(clue, one) for clue, one in zip(game["clues"], judged, strict=True)])
        values = by_iteration.setdefault(iteration_of(game), {})
        for role in grounding.roles_of_policy(game):
            is_spy = role is Role.SPY
            own = [one for clue, one in zip(said, judged, strict=True) if (clue.seat == game["spy"]) is is_spy]
            for name in own[0] if own else ():
                mean = sum(one[name] for one in own) / len(own)
                values.setdefault(f"{role.value}/{name}", []).append((mean, game["pair"]))
    shares = {k: {name: _interval(one) for name, one in figures.items()} for k, figures in sorted(by_iteration.items())}
    return JudgedClues(marks, shares)


def _marks(clue: Record, judged: Mapping[str, float]) -> list[str]:
    own = [] if clue["parsed"] else ["unparsed"]
    if "true" in judged and clue["parsed"]:
        own.append("no_claim" if judged["no_claim"] else "true" if judged["true"] else "false")
    return [*own, *(["copied"] if judged["copied"] else [])]


def _interval(values: Sequence[tuple[float, str]]) -> tuple[float, float | None, float | None]:
    interval = Interval.of_mean([value for value, _ in values], pairs=[pair for _, pair in values], resamples=500)
    return interval.value, interval.low, interval.high


@dataclass
class Pictures:
    """Reduced images as data URIs, each once however often it was seen."""

    longest: int
    uris: list[str] = field(default_factory=list)
    _by_content: dict[bytes, int] = field(default_factory=dict)

    def add(self, image: Image.Image) -> int:
        """The number of `image`, reduced to `longest` pixels on its longer side."""
        small = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
        small.thumbnail((self.longest, self.longest), Image.Resampling.LANCZOS)
        content = hashlib.sha256(repr(small.size).encode() + small.tobytes()).digest()
        if content not in self._by_content:
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=QUALITY, method=4)
            self._by_content[content] = len(self.uris)
            self.uris.append("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
        return self._by_content[content]


def picture_games(
    games: Sequence[Record], pairs: Mapping[str, ImagePair], pictures: Pictures
) -> Iterator[tuple[int, Record]]:
    """For every game its number, and its pictures' or `no_image`: why there are none. By pairs: each opens once."""
    known: GameImages = {}
    last_pair = None
    for number, game in sorted(enumerate(games), key=lambda one: (str(one[1]["pair"]), one[0])):
        if game["pair"] != last_pair:
            known, last_pair = {}, game["pair"]
        try:
            civilians, spy = seen_images(game, pairs, known)
        except ValueError as error:  # BadImageError, or a name that no file can have
            yield number, {"image": None, "spy_image": None, "no_image": str(error)}
            continue
        known = {(0, "civilian"): civilians}
        if game["spy_view"] == "edited":
            known[0, "spy"] = spy
        yield number, {"image": pictures.add(civilians), "spy_image": pictures.add(spy), "no_image": None}


def game_for_page(
    game: Record, iteration: int, seen: Record, marks: Sequence[list[str]], prompts: dict[tuple[str, ...], int]
) -> Record:
    """One game in the form that the page's scripts take. Its prompts are added to `prompts`, by number."""
    n_players = game["rules"]["n_civilians"] + 1
    named = plurality(game["outcome"], n_players)

    def said(turn: Record) -> Record:
        outside, boxed = split_completion(turn["completion"])
        kind = "unboxed" if boxed is None else "reasoned" if outside else "answer"
        return {**turn, "kind": kind, "prompt": prompts.setdefault(turn["prompt"], len(prompts))}

    return {
        **{name: game[name] for name in ("step", "stage", "game", "pair", "domain", "spy", "failed_edit", "past")},
        "iteration": iteration,
        "view": game["spy_view"],
        "players": n_players,
        "outcome": "undecided" if named is None else "found" if named == game["spy"] else "escaped",
        "named": named,
        "clues": [{**said(clue), "marks": own} for clue, own in zip(game["clues"], marks, strict=True)],
        "votes": list(map(said, game["votes"])),
        "rewards": game["clue_rewards"],
        "advantages": game["clue_advantages"],
        **seen,
    }
