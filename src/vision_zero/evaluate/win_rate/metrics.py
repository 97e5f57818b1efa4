"""The win rate of a trained model against a frozen one, what each role adds, and whether it is skill.

With T(c, s, v) = 1 if the table of civilians c and voters v finds the spy s in a deal, else 0:

    win_rate         (T(new, start, new) + 1 - T(start, new, start)) / 2     exactly 1/2 when both are the same
    as_table         T(new, start, new)
    as_spy           1 - T(start, new, start)
    start_as_table   T(start, start, start); as the spy the start wins the rest
    table_gain       as_table - start_as_table
    spy_gain         as_spy - (1 - start_as_table)

One policy that plays all roles can drift into a code between its clue givers and its voters. A code is no skill, and
it needs both, so each is also put beside the frozen other:

    civilians_gain   T(new, start, start) - start_as_table      new civilians, frozen voters
    voters_gain      T(start, start, new) - start_as_table      frozen civilians, new voters
    together         table_gain - civilians_gain - voters_gain  what they gain only with each other
    against_itself   T(new, new, new)
    other_voters_gain, other_civilians_gain                     beside players of another seed: T(new, start, other)
                     and T(other, start, new), minus start_as_table

Does it see? At the same clues and seeds, with the true image and with another game's:

    sight            share of right votes minus blind_votes_right, in games of the new model with itself

All are means over deals; intervals resample deals.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from vision_zero.evaluate.bootstrap import Interval, paired
from vision_zero.evaluate.clues.grounding import truth_figures
from vision_zero.evaluate.win_rate.arena import LineUp, Outcome, Results, share

NEW, START, OTHER = "new", "start", "other"

NEW_TABLE = LineUp(NEW, START, NEW)
NEW_SPY = LineUp(START, NEW, START)
FROZEN = LineUp(START, START, START)
NEW_CIVILIANS = LineUp(NEW, START, START)
NEW_VOTERS = LineUp(START, START, NEW)
ITSELF = LineUp(NEW, NEW, NEW)
OTHER_VOTERS = LineUp(NEW, START, OTHER)
OTHER_CIVILIANS = LineUp(OTHER, START, NEW)

WIN_RATE = (FROZEN, NEW_TABLE, NEW_SPY)
CROSS_PLAY = (*WIN_RATE, NEW_CIVILIANS, NEW_VOTERS, ITSELF)
WITH_ANOTHER_SEED = (*CROSS_PLAY, OTHER_VOTERS, OTHER_CIVILIANS)

Figures = dict[str, Interval]


def table_wins(outcomes: Sequence[Outcome]) -> list[float]:
    return [float(outcome.table_won) for outcome in outcomes]


def win_rate_figures(results: Results) -> Figures:
    """By the names above, as far as the line-ups were played; the three of WIN_RATE must be.

    Raises ValueError for line-ups that did not play the same deals.
    """
    for line_up, outcomes in results.items():
        if [o.summary.game for o in outcomes] != [o.summary.game for o in results[FROZEN]]:
            raise ValueError(f"two line-ups played different deals: {FROZEN}, and {line_up}")
    wins = {line_up: table_wins(outcomes) for line_up, outcomes in results.items()}
    table, spy, frozen = wins[NEW_TABLE], [1 - won for won in wins[NEW_SPY]], wins[FROZEN]
    figures = {
        "win_rate": Interval.of([(a + b) / 2 for a, b in zip(table, spy, strict=True)]),
        "as_table": Interval.of(table),
        "as_spy": Interval.of(spy),
        "start_as_table": Interval.of(frozen),
        "table_gain": paired(table, frozen),
        "spy_gain": paired(spy, [1 - won for won in frozen]),
    }
    gains = {
        "civilians_gain": NEW_CIVILIANS,
        "voters_gain": NEW_VOTERS,
        "other_voters_gain": OTHER_VOTERS,
        "other_civilians_gain": OTHER_CIVILIANS,
    }
    figures |= {name: paired(wins[line_up], frozen) for name, line_up in gains.items() if line_up in wins}
    if {NEW_CIVILIANS, NEW_VOTERS} <= wins.keys():
        apart = zip(table, wins[NEW_CIVILIANS], wins[NEW_VOTERS], frozen, strict=True)
        figures["together"] = Interval.of([t - c - v + f for t, c, v, f in apart])
    if ITSELF in wins:
        figures["against_itself"] = Interval.of(wins[ITSELF])
        figures |= play_figures(results[ITSELF])
    return figures


def play_figures(outcomes: Sequence[Outcome]) -> Figures:
    """How one line-up plays: votes, replies, sight where it voted blindly, truth where the scenes are described."""
    games = [outcome.summary for outcome in outcomes]
    figures = {
        "votes/right": Interval.of([outcome.votes_right for outcome in outcomes]),
        "votes/na": Interval.of([share(game.votes, None) for game in games]),
        "votes/invalid": Interval.of([share(game.votes, 0) for game in games]),
        "clues/unreadable": Interval.of([game.unreadable_clues / len(game.clue_lengths) for game in games]),
        "length/clue": Interval.of([fmean(game.clue_lengths) for game in games]),
        "length/vote": Interval.of([fmean(game.vote_lengths) for game in games]),
    }
    if all(outcome.blind_votes is not None for outcome in outcomes):
        right, blind = [o.votes_right for o in outcomes], [o.blind_votes_right for o in outcomes]
        figures |= {"votes/right_blind": Interval.of(blind), "sight": paired(right, blind)}
    truths = [outcome.truth for outcome in outcomes if outcome.truth is not None]
    if len(truths) == len(outcomes):
        figures |= {f"truth/{name}": interval for name, interval in truth_figures(truths).items()}
    return figures
