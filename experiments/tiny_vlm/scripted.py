r"""Scripted players: for tests, for baselines, and for the games that the tiny model is warm-started on.

All answer in the format that the tiny model is taught:

    a clue      see red \boxed{red cube}            or only the box
    a vote      said red cube \boxed{3}             a claim or a word of the suspect's, then the seat
                unsure \boxed{N/A}

An answer is a function of the request: its randomness comes from `request.seed`. Players compose: a `NoisyPlayer`
mixes two, a `TellingPlayer` adds a word to the clues of another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vision_zero.evaluate.clues.grounding import CLAIM, COLOURS, SHAPES, civilian_objects, claims, object_name
from vision_zero.game.parsing import read_clue, split_completion
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.types import Completion, Game, ImagePair, Role, Vote

TELL_WORDS = ("maybe", "wow", "hmm", "surely", "perhaps", "oddly", "well", "indeed")
"""Words that say nothing about a scene. The tiny model knows them, and they are as frequent in both roles."""


def clue_completion(clue: str, thought: str = "") -> Completion:
    r"""`thought \boxed{clue}`."""
    return Completion(f"{thought} \\boxed{{{clue}}}".lstrip())


def vote_completion(vote: Vote, thought: str = "") -> Completion:
    r"""`thought \boxed{3}`, or N/A for None."""
    return Completion(f"{thought} \\boxed{{{'N/A' if vote is None else vote}}}".lstrip())


def suspicion_completion(seat: int, word: str) -> Completion:
    return vote_completion(seat, f"said {word}")


def abstention_completion() -> Completion:
    return vote_completion(None, "unsure")


class ScriptedPlayer:
    """Policy that answers one request at a time, by its methods `clue` and `vote`."""

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        return [self._answer_one(request) for request in requests]

    def _answer_one(self, request: TurnRequest) -> Completion:
        # Players of different classes draw different numbers for the same turn.
        rng = random.Random(f"vision-zero/{type(self).__name__}/{request.seed}")
        return self.clue(request, rng) if request.turn.stage == "clue" else self.vote(request, rng)

    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        raise NotImplementedError

    def vote(self, request: TurnRequest, rng: random.Random) -> Completion:
        raise NotImplementedError


class FunctionPlayer(ScriptedPlayer):
    """Player of two functions of (request, rng): the text of a clue, and a vote. An unused one may be None."""

    def __init__(
        self,
        clue: Callable[[TurnRequest, random.Random], str] | None = None,
        vote: Callable[[TurnRequest, random.Random], Vote] | None = None,
    ) -> None:
        self._clue, self._vote = clue, vote

    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        if self._clue is None:
            raise ValueError("this FunctionPlayer was asked for a clue, but has no function for one")
        return clue_completion(self._clue(request, rng))

    def vote(self, request: TurnRequest, rng: random.Random) -> Completion:
        if self._vote is None:
            raise ValueError("this FunctionPlayer was asked for a vote, but has no function for one")
        return vote_completion(self._vote(request, rng))


class RandomPlayer(ScriptedPlayer):
    """Names random objects, and suspects whoever said a claim or a word drawn from all clues.

    `words` replaces the objects: a clue is then one to three of them. `na_share` of the votes are N/A.
    """

    def __init__(self, words: Sequence[str] = (), na_share: float = 0.12, thought_share: float = 0.25) -> None:
        self.words = tuple(words)
        self.na_share = na_share
        self.thought_share = thought_share

    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        if self.words:
            return clue_completion(" ".join(rng.choices(self.words, k=rng.randint(1, 3))))
        return _say(f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}", rng, self.thought_share)

    def vote(self, request: TurnRequest, rng: random.Random) -> Completion:
        said = [
            (clue.turn.seat, words)
            for clue in request.game.clues
            if clue.parsed and clue.turn.seat != request.turn.seat
            for words in (*claims(clue.text), *CLAIM.sub("", clue.text).split())
        ]
        if not said or rng.random() < self.na_share:
            return abstention_completion()
        return suspicion_completion(*rng.choice(said))


class OraclePlayer(ScriptedPlayer):
    """Player that knows its image from the pair's scene description and plays well.

    A civilian names an object of its scene that nobody has named yet. A spy repeats what others have said of objects
    that it sees too (all they said, if it sees nothing), for those are in both images; the first to speak names what it
    sees, or guesses. A voter suspects the player who most often said what the civilians' scene does not have, one of
    them if there are several, and nobody if all clues are true.
    """

    def __init__(self, thought_share: float = 0.0) -> None:
        self.thought_share = thought_share

    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        game = request.game
        said = [claim for clue in game.clues for claim in claims(clue.text)]
        seen = seen_objects(request) or [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
        if game.role(request.turn.seat) is Role.SPY:
            objects = [claim for claim in said if claim in seen]
        else:
            objects = [one for one in seen if one not in said]
        return _say(rng.choice(objects or seen), rng, self.thought_share)

    def vote(self, request: TurnRequest, rng: random.Random) -> Completion:
        false = false_claims(request.game)
        false.pop(request.turn.seat, None)  # a civilian does not suspect itself
        most = max((len(claimed) for claimed in false.values()), default=0)
        if most == 0:
            return abstention_completion()
        seat = rng.choice([seat for seat, claimed in false.items() if len(claimed) == most])
        return suspicion_completion(seat, rng.choice(false[seat]))


class NamingPlayer(OraclePlayer):
    """Names any object of its image, in either role."""

    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        seen = seen_objects(request) or [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
        return _say(rng.choice(seen), rng, self.thought_share)


class NoisyPlayer(ScriptedPlayer):
    """Mixture of players: `noise` answers `share` of the turns, `inner` the others."""

    def __init__(self, inner: Policy, share: float, noise: Policy | None = None) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of noise must be in [0, 1], got {share}")
        self.inner, self.share = inner, share
        self.noise: Policy = RandomPlayer() if noise is None else noise

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        return [self._player(request).answer([request])[0] for request in requests]

    def _player(self, request: TurnRequest) -> Policy:
        rng = random.Random(f"vision-zero/NoisyPlayer/{request.seed}")
        return self.noise if rng.random() < self.share else self.inner


class TellingPlayer(ScriptedPlayer):
    """Player that appends one of `words` to `share` of another player's clues; its votes are the other's."""

    def __init__(self, inner: Policy, words: Sequence[str] = TELL_WORDS, share: float = 1.0) -> None:
        self.inner, self.words, self.share = inner, tuple(words), share

    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        completion = self.inner.answer([request])[0]
        clue = read_clue(completion.text)
        if clue is None or rng.random() >= self.share:
            return completion
        return clue_completion(f"{clue} {rng.choice(self.words)}", split_completion(completion.text)[0])

    def vote(self, request: TurnRequest, rng: random.Random) -> Completion:
        return self.inner.answer([request])[0]


def _say(name: str, rng: random.Random, thought_share: float) -> Completion:
    return clue_completion(name, f"see {name.split()[0]}" if rng.random() < thought_share else "")


def spy_objects(pair: ImagePair) -> list[str]:
    """Objects of the edited image. Raises ValueError if the pair has no description."""
    names = civilian_objects(pair)
    for change in pair.meta.get("modification", {}).get("replaced_objects", []):
        names[change["index"]] = object_name(change["replacement"])
    return names


def seen_objects(request: TurnRequest) -> list[str]:
    """Objects of the image that the player of this turn sees: none of a blank image, all of a masked one."""
    game = request.game
    if request.prompt.view == "civilian" or game.spy_view == "masked":
        return civilian_objects(game.pair)
    return spy_objects(game.pair) if game.spy_view == "edited" else []


def false_claims(game: Game) -> dict[int, list[str]]:
    """By seat, the claims about objects that the civilians' image does not show."""
    true = set(civilian_objects(game.pair))
    false: dict[int, list[str]] = {seat: [] for seat in range(1, game.rules.n_players + 1)}
    for clue in game.clues:
        false[clue.turn.seat] += [claim for claim in claims(clue.text) if claim not in true]
    return false
