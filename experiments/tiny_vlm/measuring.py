"""Measurements of the tiny model, with intervals."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from tiny_vlm.games import TOKEN_LIMITS
from tiny_vlm.lessons import LessonExample
from tiny_vlm.questions import QUESTIONS, shape_question, strange_image
from tiny_vlm.scripted import spy_objects
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.data.pairs import load_pairs
from vision_zero.evaluate.bootstrap import Interval, paired
from vision_zero.evaluate.clues.grounding import civilian_objects, claims
from vision_zero.game.parsing import read_clue
from vision_zero.game.spy_game import deal_games, vote_turns, votes_in_order
from vision_zero.models import load_model, load_processor
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.types import Game, GameRules, ImagePair, Prompt, Role

MEASURED_RULES = tuple(GameRules(n_civilians=n, n_rounds=rounds) for n in (2, 3, 4, 6, 8) for rounds in (1, 2))


def measure(folder: Path, n_games: int = 400, seed: int = 0) -> dict[str, str]:
    """Measurements by name, on drawings it was not trained on: parsed shares, clues, votes, questions."""
    processor = load_processor(str(folder))
    model = load_model(folder, dtype=torch.float32).eval()
    results: dict[str, str] = {}
    for temperature in (0.8, 1.0):
        policy = TransformersPolicy(model, processor, Sampling(temperature, top_k=0))
        few = [game for rules in MEASURED_RULES for game in played(policy, drawn_pairs(range(8)), rules, seed)]
        results |= parsed_figures(few, f"drawings, 2 to 8 civilians, 1 and 2 rounds, temperature {temperature}")
        strange = [strange_pair(number) for number in range(24)]
        results |= parsed_figures(
            played(policy, strange, GameRules(), seed), f"other images, temperature {temperature}"
        )
        photographs = folder.parent / "photos"
        if photographs.is_dir():
            games = played(policy, load_pairs(photographs), GameRules(), seed)
            results |= parsed_figures(games, f"photographs, temperature {temperature}")
    policy = TransformersPolicy(model, processor, Sampling(0.8, top_k=0))
    games = played(policy, drawn_pairs(range(n_games)), GameRules(), seed)
    likeliest = TransformersPolicy(model, processor, Sampling(1.0, top_k=1))
    right = {
        f"right answers: {name}": str(Interval.of_mean(one))
        for name, one in questions_right(likeliest, games[0]).items()
    }
    return results | clue_figures(games) | vote_figures(policy, games) | right


@dataclass(frozen=True)
class StrangeImage:
    number: int

    @property
    def name(self) -> str:
        return f"strange image {self.number}"

    def open(self) -> Image.Image:
        return strange_image(random.Random(f"vision-zero/strange/{self.number}"))


def strange_pair(number: int) -> ImagePair:
    return ImagePair(f"strange-{number}", StrangeImage(number))


def played(policy: Policy, pairs: Sequence[ImagePair], rules: GameRules, seed: int) -> list[Game]:
    return play(
        deal_games(range(len(pairs)), seed, pairs, rules), Seating.of(policy), TOKEN_LIMITS, template="compact"
    ).games


def parsed_figures(games: Sequence[Game], what: str) -> dict[str, str]:
    clues = [float(clue.parsed) for game in games for clue in game.clues]
    votes = [float(vote != 0) for game in games for vote in votes_in_order(game)]
    return {
        f"parsed clues, {what}": f"{sum(clues) / len(clues):.3f} of {len(clues)}",
        f"parsed votes, {what}": f"{sum(votes) / len(votes):.3f} of {len(votes)}",
    }


def clue_figures(games: Sequence[Game]) -> dict[str, str]:
    """Variety of clues, and the share that names an object of the player's image."""
    clues = Counter(clue.text for game in games for clue in game.clues)
    words = Counter(word for clue, count in clues.items() for word in clue.split() for _ in range(count))
    true: dict[Role, list[float]] = {role: [] for role in Role}
    for game in games:
        shown = {Role.CIVILIAN: civilian_objects(game.pair), Role.SPY: spy_objects(game.pair)}
        for role in Role:
            said = [clue.text for clue in game.clues if game.role(clue.turn.seat) is role]
            true[role].append(sum(all_shown(text, shown[role]) for text in said) / len(said))
    return {
        "different clues": f"{len(clues)} among {clues.total()}",
        "most common clue": "{} ({:.3f})".format(*most_common(clues)),
        "most common word of clues": "{} ({:.3f} of words)".format(*most_common(words)),
        "civilians' clues that name an object of their image": str(Interval.of_mean(true[Role.CIVILIAN])),
        "spies' clues that name an object of their (edited) image": str(Interval.of_mean(true[Role.SPY])),
    }


def all_shown(clue: str, objects: Sequence[str]) -> bool:
    return bool(claims(clue)) and set(claims(clue)) <= set(objects)


def most_common(counts: Counter[str]) -> tuple[str, float]:
    name, count = counts.most_common(1)[0]
    return name, count / counts.total()


def vote_figures(policy: Policy, games: Sequence[Game]) -> dict[str, str]:
    """Votes by seat, and the share for the spy with the true image and with the next game's, at the same clues."""
    seats = Counter("N/A" if vote is None else str(vote) for game in games for vote in votes_in_order(game))
    shuffled = revote(policy, games)
    right = [share_right(game) for game in games]
    wrong_image = [share_right(game) for game in shuffled]
    spread = ", ".join(f"{name} {count / seats.total():.3f}" for name, count in sorted(seats.items()))
    return {
        "votes by seat (0: unparsed)": spread,
        "votes for the spy, true images (chance 0.2)": str(Interval.of_mean(right)),
        "votes for the spy, images shuffled across games": str(Interval.of_mean(wrong_image)),
        "difference (paired)": str(paired(right, wrong_image)),
    }


def share_right(game: Game) -> float:
    return sum(vote == game.spy for vote in votes_in_order(game)) / game.rules.n_votes


def revote(policy: Policy, games: Sequence[Game]) -> list[Game]:
    """The games with their votes cast again, at the same seeds, on the images of the next game."""
    swapped = [replace(game, votes=(), pair=games[(k + 1) % len(games)].pair) for k, game in enumerate(games)]
    return play(swapped, Seating.of(policy), TOKEN_LIMITS, template="compact").games


def questions_right(policy: Policy, game: Game, n_questions: int = 200, seed: int = 0) -> dict[str, list[float]]:
    """By kind of question, 1 for each right answer, else 0. The questions are asked in a turn of `game`."""
    rng = random.Random(f"vision-zero/questions/{seed}")
    kinds = {name: question for name, (question, _) in QUESTIONS.items()}
    kinds["what shape has a colour, 6 objects"] = partial(shape_question, n_objects=6)
    return {
        name: answered(policy, game, [question(rng) for _ in range(n_questions)], name)
        for name, question in kinds.items()
    }


def answered(policy: Policy, game: Game, examples: Sequence[LessonExample], name: str) -> list[float]:
    """1 for each example whose box the policy fills rightly, else 0.

    They are asked in a turn of `game`; `name` is unique to the images of these examples.
    """
    turn = vote_turns(game)[0]
    requests = [
        TurnRequest(
            replace(game, index=number),
            replace(turn, game=number),
            Prompt("civilian", example.prompt),
            GameImage(f"{name} {number}", example.image),
            number,
            TOKEN_LIMITS["decision"],
        )
        for number, example in enumerate(examples)
    ]
    completions = policy.answer(requests)
    return [
        float(read_clue(completion.text) in (read_clue(example.completion), *example.boxes))
        for completion, example in zip(completions, examples, strict=True)
    ]
