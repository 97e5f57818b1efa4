"""Metrics of an iteration, and TRL's own made right for it. docs/runs.md explains each.

TRL averages its numbers over micro-batches. A micro-batch holds fewer tokens than another, or none, and would count as
much, so the numbers would depend on which rows are in a micro-batch together: here they are means over tokens.
"""

import math
import sys
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence

from tqdm import tqdm

from vision_zero.rollout.policy import TokenLimitsByStage
from vision_zero.spo.advantages import RoleBaselines
from vision_zero.spo.alarms import IN_A_ROW, OF_AN_ITERATION, clue_shares
from vision_zero.spo.rewards import COMPLETION_REWARDS
from vision_zero.spo.scoring import Scores
from vision_zero.spo.stages import StageSchedule
from vision_zero.types import GameSummary, Stage


def iteration_metrics(
    games: Sequence[GameSummary],
    scores: Scores,
    stage: Stage,
    schedule: StageSchedule,
    baselines: RoleBaselines,
    token_limits: TokenLimitsByStage,
    past: Collection[int] = (),
) -> dict[str, float]:
    """Metrics by name. `stage` is the one that trained; averages, dwell and switch are those after it.

    Shares of clues leave out the games `past`, in which another model gave some.
    """
    votes = [vote for game in games for vote in game.votes]
    clue_lengths = [length for game in games for length in game.clue_lengths]
    vote_lengths = [length for game in games for length in game.vote_lengths]
    values = {
        "stage/is_clue": float(stage == "clue"),
        "stage/accuracy": scores.accuracy,
        "stage/na_rate": scores.na_rate,
        "stage/accuracy_average": schedule.accuracy_average,
        "stage/na_average": schedule.na_average,
        "stage/dwell": schedule.dwell,
        "baseline/spy": baselines.spy,
        "baseline/civilian": baselines.civilian,
        **scores.means,
        "votes/for_spy": sum(game.votes.count(game.spy) for game in games) / len(games),
        "votes/right": sum(game.votes.count(game.spy) for game in games) / len(votes),
        "votes/invalid": sum(vote == 0 for vote in votes) / len(votes),
        "votes/zero_variance_games": sum(len(set(one.vote_rewards)) == 1 for one in scores.by_game.values())
        / len(games),
        "clues/unparsed": sum(game.unparsed_clues for game in games) / len(clue_lengths),
        **{
            f"clues/{name}": share
            for name, share in clue_shares([game for game in games if game.game not in past]).items()
        },
        "length/clue": sum(clue_lengths) / len(clue_lengths),
        "length/vote": sum(vote_lengths) / len(votes),
        "length/clue_cut": sum(n >= token_limits["clue"].maximum for n in clue_lengths) / len(clue_lengths),
        "length/vote_cut": sum(n >= token_limits["decision"].maximum for n in vote_lengths) / len(votes),
        **{f"stage/switched_by_{name}": float(schedule.last_reason == name) for name in ("rule", "patience", "cycle")},
    }
    return {name: float(value) for name, value in values.items()}


def log_iteration(log: MutableMapping[str, list[float]], metrics: Mapping[str, float]) -> None:
    """Put `metrics` into TRL's `log`, in place of its own numbers of rows and rewards, which count dummy samples."""
    for name in [name for name in log if name.split("/")[0] in ("completions", "rewards")]:
        del log[name]
    for name in ("reward", "reward_std", "frac_reward_zero_std"):
        log.pop(name, None)
    for name, value in metrics.items():
        log[name].append(float(value))


EQUAL_FOR = 5
"""Iterations after which equal rewards are told."""


class Streaks:
    """What is told on stderr once per streak. `lengths` of the streaks, in iterations, are saved with a run."""

    def __init__(self, *, shown: bool) -> None:
        self.lengths: dict[str, int] = {}
        self.shown = shown

    def tell(self, name: str, holds: bool, words: str, least: int = 1) -> None:
        """Say `words` when something has held `least` times in a row."""
        self.lengths[name] = self.lengths.get(name, 0) + 1 if holds else 0
        if self.shown and self.lengths[name] == least:
            tqdm.write(f"warning: {words}", file=sys.stderr)


def tell_of_iteration(streaks: Streaks, iteration: int, metrics: Mapping[str, float], scores: Scores) -> None:
    """Tell of alarms, of replies that are all unparsed, and of rewards that have long been equal: votes' or clues'.

    `metrics` has the means of the separate rewards too, which are +-1: equal for all if their mean is.
    """
    for what, share in (("clues", metrics["clues/unparsed"]), ("votes", metrics["votes/invalid"])):
        words = f"iteration {iteration}: none of the {what} could be parsed; games/ has them, is --template right?"
        streaks.tell(f"unparsed {what}", share == 1, words)
    games = scores.by_game.values()
    clues = {reward for game in games for reward in game.clue_rewards}
    equal = len(clues) == 1 if metrics["stage/is_clue"] else metrics["votes/zero_variance_games"] == 1
    equal &= all(abs(metrics.get(f"reward/{name}", 1)) == 1 for name in COMPLETION_REWARDS)
    words = f"iteration {iteration}: all rewards have been equal for {EQUAL_FOR} iterations, nothing is learnt"
    streaks.tell("equal rewards", equal, words + "; games/ has what was said", EQUAL_FOR)
    for alarm in OF_AN_ITERATION:
        rings = alarm.rings(metrics)
        streaks.tell(alarm.name, rings, f"iteration {iteration}: {alarm.words(metrics)}" if rings else "", IN_A_ROW)


MEANS = ("kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
EXTREMES: dict[str, Callable[[list[float]], float]] = {"clip_ratio/low_min": min, "clip_ratio/high_max": max}


class TokenWeightedMetrics:
    """Takes TRL's numbers of each micro-batch out of its log and puts those of the optimizer step back."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, float]]] = {}

    def take(self, log: MutableMapping[str, list[float]], n_tokens: float) -> None:
        """After a micro-batch with `n_tokens` tokens over all processes."""
        for name in (*MEANS, *EXTREMES):
            if log.get(name):
                self._values.setdefault(name, []).append((log[name].pop(), n_tokens))

    def put_back(self, log: MutableMapping[str, list[float]]) -> None:
        """After the last micro-batch of an optimizer step."""
        for name, values in self._values.items():
            if name in EXTREMES:
                # A micro-batch of dummy samples alone has NaN.
                if known := [value for value, _ in values if not math.isnan(value)]:
                    log[name].append(EXTREMES[name](known))
            elif total := sum(n for _, n in values):
                log[name].append(sum(value * n for value, n in values) / total)
        self._values.clear()
