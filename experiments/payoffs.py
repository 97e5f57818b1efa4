"""What a player earns who leaves honesty alone: `python experiments/payoffs.py --voters trained=runs/...`, minutes.

Scripted players give the clues, models vote, nothing is trained. One player of a game, a civilian or the spy, plays a
strategy while all others play another; its clue reward (docs/method.md) is compared, deal by deal, with what the same
seat earns when it does as the others do. Where a deviation earns more, self-play that is good at its job will find it.

    honest    names an object of its picture
    silent    says "1", which claims nothing
    copying   repeats what was said before, as far as its picture has it; the first to speak is honest
    code      says "blue cube" whatever its picture shows

A mixture plays a share of the games in front of the start's votes and the others in front of the trained model's: the
mean reward is linear in the share, so nothing is played for it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from ceiling import SAMPLING
from errors import in_words
from files import Line, read_lines
from questions import export_of, policy_of
from report import marked, write_sections
from silence import SilentPlayer
from study import HERE, ROOT, weights_hash
from tables import markdown
from tiny_vlm.games import TOKEN_LIMITS
from tiny_vlm.scripted import NamingPlayer, clue_completion, seen_objects
from vision_zero.data.pairs import load_pairs
from vision_zero.evaluate.bootstrap import Interval, paired
from vision_zero.evaluate.clues.grounding import claims
from vision_zero.game.spy_game import deal_games, votes_in_order
from vision_zero.rollout.game_images import open_images
from vision_zero.rollout.play import Seating, play_side_by_side
from vision_zero.rollout.policy import Policy, TurnRequest
from vision_zero.run_folder import append_json_line
from vision_zero.spo.rewards import clue_rewards
from vision_zero.types import Completion, Game, GameRules, Role

PAYOFFS = HERE / "payoffs.jsonl"
"""A line per call, the last one counts; see `figures`."""
DEALS_AT_ONCE = 20
CODE = "blue cube"
MIXTURES = (0.1, 0.2, 0.5)
REWARD_BETA = REWARD_LAMBDA = 0.1
"""The paper's."""


class CopyingPlayer(NamingPlayer):
    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        seen = set(seen_objects(request))
        said = [one for clue in request.game.clues for one in claims(clue.text) if one in seen]
        return clue_completion(rng.choice(said)) if said else super().clue(request, rng)


class CodePlayer(NamingPlayer):
    def clue(self, request: TurnRequest, rng: random.Random) -> Completion:
        return clue_completion(CODE)


STRATEGIES: Mapping[str, Policy] = {
    "honest": NamingPlayer(),
    "silent": SilentPlayer(),
    "copying": CopyingPlayer(),
    "code": CodePlayer(),
}


@dataclass(frozen=True)
class Case:
    """All play `others`, but for one player of `role`, who plays `own`."""

    role: Role
    others: str
    own: str

    def __str__(self) -> str:
        return f"{self.role.value}, {self.own} among {self.others}"


CASES = tuple(Case(role, others, own) for role in Role for others in STRATEGIES for own in STRATEGIES)


@dataclass(frozen=True)
class OneDeviates:
    """The clue givers of a case, each turn by the strategy of its seat."""

    case: Case

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        return [self._strategy(request).answer([request])[0] for request in requests]

    def _strategy(self, request: TurnRequest) -> Policy:
        own = request.turn.seat == deviant(request.game, self.case.role)
        return STRATEGIES[self.case.own if own else self.case.others]


def deviant(game: Game, role: Role) -> int:
    """The seat that deviates: the spy's, or a civilian's, the same one in all cases of a deal."""
    if role is Role.SPY:
        return game.spy
    seats = [seat for seat in range(1, game.rules.n_players + 1) if seat != game.spy]
    return random.Random(f"vision-zero/deviant/{game.index}").choice(seats)


def rewards(voters: Policy, deals: Sequence[Game]) -> dict[str, list[float]]:
    """The clue reward of the one who deviates, by case and deal."""
    found: dict[str, list[float]] = {str(case): [] for case in CASES}
    tables: list[tuple[Sequence[Game], Seating]] = []
    for start in range(0, len(deals), DEALS_AT_ONCE):
        some = deals[start : start + DEALS_AT_ONCE]
        tables = [(some, Seating(players := OneDeviates(case), players, voters)) for case in CASES]
        played = play_side_by_side(tables, TOKEN_LIMITS, images=open_images(some), template="compact")
        for case, games in zip(CASES, played, strict=True):
            for game in games:
                votes = votes_in_order(game)
                earned = clue_rewards(votes, game.spy, game.rules.n_players, REWARD_BETA, REWARD_LAMBDA)
                found[str(case)].append(earned[deviant(game, case.role) - 1])
    return found


def mixed(by_voters: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Mapping[str, Sequence[float]]]:
    """The rewards of each voter, and of mixtures of the first one with each other one."""
    (first, start), *others = by_voters.items()
    found = dict(by_voters)
    for name, trained in others:
        for share in MIXTURES:
            found[f"{name}, {share:.0%} {first}"] = {
                case: [(1 - share) * b + share * a for a, b in zip(start[case], trained[case], strict=True)]
                for case in start
            }
    return found


def figures(by_voters: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, list[float | None]]]:
    """By voters: `CASE` -> [mean, low, high] of its reward, `gain/CASE` -> the same of what deviating adds."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for voters, by_case in mixed(by_voters).items():
        found[voters] = {}
        for case in CASES:
            own, conform = by_case[str(case)], by_case[str(Case(case.role, case.others, case.others))]
            found[voters][str(case)] = list(astuple(Interval.of_mean(own, bounds=None)))
            found[voters][f"gain/{case}"] = list(astuple(paired(own, conform, bounds=None)))
    return found


def table(line: Line) -> str:
    """A row per voters (mixtures lie in between), role and strategy of the others: its reward, what deviating adds."""
    rows = []
    for voters in line["voters"]:
        found = line["figures"][voters]
        for role in Role:
            for others in STRATEGIES:
                conform = found[str(Case(role, others, others))][0]
                gains = [
                    "–" if own == others else _gain(found[f"gain/{Case(role, others, own)}"]) for own in STRATEGIES
                ]
                rows.append([voters, role.value, others, f"{conform:+.3f}", *gains])
    return markdown(["voters", "who deviates", "all others", "reward", *(f"gain if {own}" for own in STRATEGIES)], rows)


def _gain(interval: Sequence[float | None]) -> str:
    value, low, high = interval
    if low is None or high is None:
        return f"{value:+.3f}"
    text = f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"**{text}**" if low > 0 else text


def section(line: Line) -> str:
    command = "python experiments/payoffs.py"
    parts = [
        "### What pays: honesty, silence, copying, a code",
        f"What does a player earn who leaves the others' strategy, in front of whose votes? {line['games']} deals, "
        "scripted clue givers, no training; intervals over deals, a deviation that pays in bold. Paper or its code: "
        "none.",
        f"    {command} --voters " + " ".join(f"{name}=MODEL" for name in list(line["voters"])[1:]),
        table(line),
        best_replies(line),
    ]
    return marked("payoffs", parts)


def lower_end(interval: Sequence[float | None]) -> float:
    value, low, _ = interval
    assert value is not None
    return value if low is None else low


def best_replies(line: Line) -> str:
    """Where honesty pays: among the honest, voters and mixtures in front of whom no deviation is seen to gain."""
    found = []
    for role in Role:
        gains = {
            voters: max(
                lower_end(figures[f"gain/{Case(role, 'honest', own)}"]) for own in STRATEGIES if own != "honest"
            )
            for voters, figures in line["figures"].items()
        }
        honest = [voters for voters, gain in gains.items() if gain <= 0]
        found.append(
            f"Among honest players honesty is the {role.value}'s best reply "
            + (f"in front of: {', '.join(honest)}." if honest else "in front of none of these voters, nor of a mixture")
            + ("" if honest else f" ({', '.join(f'{share:.0%}' for share in MIXTURES)} of the games with the start's).")
        )
    return " ".join(found)


def voters_of(words: Sequence[str]) -> dict[str, Path]:
    """`name=folder` as a mapping, the start first. Raises ValueError."""
    found = {"start": ROOT / "data" / "tiny_vlm"}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder) or name in found:
            raise ValueError(f"--voters {word}: give NAME=FOLDER, each name once, and not the name start")
        if not Path(folder).is_dir():
            raise ValueError(f"--voters {word}: there is no folder {folder}")
        found[name] = Path(folder)
    return found


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python experiments/payoffs.py", description="Rewards of one who deviates.")
    parser.add_argument("--voters", nargs="*", default=[], metavar="NAME=FOLDER", help="trained models or checkpoints")
    parser.add_argument("--games", type=int, help="deals of each case (default: 200)")
    parser.add_argument("--report", action="store_true", help="renew docs/results.md from the last line, play nothing")
    asked = parser.parse_args(arguments)
    if asked.report and (asked.voters or asked.games is not None):
        raise ValueError("--report plays nothing: leave out --voters and --games")
    if (n_games := 200 if asked.games is None else asked.games) < 2:
        raise ValueError(f"--games {n_games} must be at least 2")
    if not asked.report:
        deals = deal_games(range(n_games), 0, load_pairs(f"drawn:{n_games}@heldout"), GameRules())
        by_voters: dict[str, dict[str, list[float]]] = {}
        voters = voters_of(asked.voters)
        hashes = {name: weights_hash(export_of(folder))[:16] for name, folder in voters.items()}
        for name, folder in voters.items():
            with policy_of(folder, SAMPLING) as policy:
                by_voters[name] = rewards(policy, deals)
            print(f"played {name}", flush=True)
        append_json_line(PAYOFFS, {"games": n_games, "voters": hashes, "figures": figures(by_voters)})
    lines = read_lines(PAYOFFS, lambda _: ("games", "voters", "figures"))
    if not lines:
        raise ValueError(f"{PAYOFFS}: nothing is played yet; leave out --report")
    print(table(lines[-1]))
    write_sections({"payoffs": section(lines[-1])})
    return 0


if __name__ == "__main__":
    sys.exit(main())
