"""The numbers of an iteration, from what every process knows of all its games. docs/metrics.md explains each."""

from __future__ import annotations

from collections.abc import Sequence

from vision_zero.game.spy_game import votes_in_order
from vision_zero.rollout.policy import LimitsByStage
from vision_zero.spo.advantages import RoleBaselines
from vision_zero.spo.scoring import GameSummary, Scores
from vision_zero.spo.stages import StageSchedule
from vision_zero.types import Game, Stage


def summarize(game: Game) -> GameSummary:
    return GameSummary(
        game=game.index,
        spy=game.spy,
        n_players=game.rules.n_players,
        votes=tuple(votes_in_order(game)),
        unreadable_clues=sum(not clue.readable for clue in game.clues),
        clue_lengths=tuple(len(clue.reply.token_ids) for clue in game.clues),
        vote_lengths=tuple(len(cast.reply.token_ids) for cast in game.votes),
    )


def iteration_metrics(
    games: Sequence[GameSummary],
    scores: Scores,
    stage: Stage,
    schedule: StageSchedule,
    baselines: RoleBaselines,
    limits: LimitsByStage,
) -> dict[str, float]:
    """By name. `stage` is the one that trained; averages, dwell and switch are those after it."""
    votes = [vote for game in games for vote in game.votes]
    n_clues = sum(len(game.clue_lengths) for game in games)
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
        "reward/spy": scores.spy_reward,
        "reward/civilian": scores.civilian_reward,
        "reward/vote": scores.vote_reward,
        "advantage/spy": scores.spy_advantage,
        "advantage/civilian": scores.civilian_advantage,
        "votes/for_spy": sum(game.votes.count(game.spy) for game in games) / len(games),
        "votes/right": sum(game.votes.count(game.spy) for game in games) / len(votes),
        "votes/invalid": sum(vote == 0 for vote in votes) / len(votes),
        "votes/zero_variance_games": sum(_all_equal(scores.of(g.game).vote_rewards) for g in games) / len(games),
        "clues/unreadable": sum(game.unreadable_clues for game in games) / n_clues,
        "length/clue": sum(clue_lengths) / n_clues,
        "length/vote": sum(vote_lengths) / len(votes),
        "length/clue_cut": sum(n >= limits["clue"].maximum for n in clue_lengths) / n_clues,
        "length/vote_cut": sum(n >= limits["decision"].maximum for n in vote_lengths) / len(votes),
        **{f"stage/switched_by_{name}": float(schedule.last_reason == name) for name in ("rule", "patience", "cycle")},
    }
    return {name: float(value) for name, value in values.items()}


def _all_equal(values: Sequence[float]) -> bool:
    return len(set(values)) == 1
