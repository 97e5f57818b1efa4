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

The image gain is what voters take from the image, not from the clues, in games of the new model with itself:

    image_gain       share of right votes with the true image minus that with another game's image
                     (votes/right - votes/right_image_swapped), on the same clues and at the same seeds

All are means over deals; intervals resample image pairs with all their deals.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from vision_zero.evaluate.bootstrap import Interval, paired
from vision_zero.evaluate.clues.grounding import grounding_figures
from vision_zero.evaluate.win_rate.arena import GameOutcome, Matchup, OutcomesByMatchup, vote_share

NEW, START, OTHER = "new", "start", "other"

NEW_TABLE = Matchup(NEW, START, NEW)
NEW_SPY = Matchup(START, NEW, START)
FROZEN = Matchup(START, START, START)
NEW_CIVILIANS = Matchup(NEW, START, START)
NEW_VOTERS = Matchup(START, START, NEW)
ITSELF = Matchup(NEW, NEW, NEW)
OTHER_VOTERS = Matchup(NEW, START, OTHER)
OTHER_CIVILIANS = Matchup(OTHER, START, NEW)

WIN_RATE = (FROZEN, NEW_TABLE, NEW_SPY)
CROSS_PLAY = (*WIN_RATE, NEW_CIVILIANS, NEW_VOTERS, ITSELF)
WITH_ANOTHER_SEED = (*CROSS_PLAY, OTHER_VOTERS, OTHER_CIVILIANS)

Figures = dict[str, Interval]


def by_pair(outcomes: Sequence[GameOutcome]) -> tuple[Callable[..., Interval], Callable[..., Interval]]:
    """`Interval.of_mean` and `paired`, of values in the order of `outcomes`."""
    pairs = [outcome.pair for outcome in outcomes]
    return partial(Interval.of_mean, pairs=pairs), partial(paired, pairs=pairs)


def win_rate_figures(results: OutcomesByMatchup) -> Figures:
    """Figures of the match-ups that were played, at least WIN_RATE's. Raises ValueError if they are of other deals."""
    for matchup, outcomes in results.items():
        if [o.summary.game for o in outcomes] != [o.summary.game for o in results[FROZEN]]:
            raise ValueError(f"two match-ups played different deals: {FROZEN}, and {matchup}")
    wins = {matchup: [float(one.table_won) for one in outcomes] for matchup, outcomes in results.items()}
    table, spy, frozen = wins[NEW_TABLE], [1 - won for won in wins[NEW_SPY]], wins[FROZEN]
    mean, gain = by_pair(results[FROZEN])
    figures = {
        "win_rate": mean([(a + b) / 2 for a, b in zip(table, spy, strict=True)]),
        "as_table": mean(table),
        "as_spy": mean(spy),
        "start_as_table": mean(frozen),
        "table_gain": gain(table, frozen),
        "spy_gain": gain(spy, [1 - won for won in frozen]),
    }
    gains = {
        "civilians_gain": NEW_CIVILIANS,
        "voters_gain": NEW_VOTERS,
        "other_voters_gain": OTHER_VOTERS,
        "other_civilians_gain": OTHER_CIVILIANS,
    }
    figures |= {name: gain(wins[matchup], frozen) for name, matchup in gains.items() if matchup in wins}
    if {NEW_CIVILIANS, NEW_VOTERS} <= wins.keys():
        apart = zip(table, wins[NEW_CIVILIANS], wins[NEW_VOTERS], frozen, strict=True)
        figures["together"] = mean([t - c - v + f for t, c, v, f in apart], bounds=(-2.0, 2.0))
    if ITSELF in wins:
        figures["against_itself"] = mean(wins[ITSELF])
        figures |= play_figures(results[ITSELF])
    return figures


def play_figures(outcomes: Sequence[GameOutcome]) -> Figures:
    """Figures of one match-up: votes, lengths, image gain if images were swapped, grounding if scenes are described."""
    games = [outcome.summary for outcome in outcomes]
    mean, gain = by_pair(outcomes)
    figures = {
        "votes/right": mean([outcome.votes_right for outcome in outcomes]),
        "votes/na": mean([vote_share(game.votes, None) for game in games]),
        "votes/invalid": mean([vote_share(game.votes, 0) for game in games]),
        "clues/unparsed": mean([game.unparsed_clues / len(game.clue_lengths) for game in games]),
        "length/clue": mean([fmean(game.clue_lengths) for game in games], bounds=None),
        "length/vote": mean([fmean(game.vote_lengths) for game in games], bounds=None),
    }
    swapped = [vote_share(one.image_swapped_votes, one.summary.spy) for one in outcomes if one.image_swapped_votes]
    if len(swapped) == len(outcomes):
        right = [outcome.votes_right for outcome in outcomes]
        figures |= {"votes/right_image_swapped": mean(swapped), "image_gain": gain(right, swapped)}
    groundings = [outcome.grounding for outcome in outcomes if outcome.grounding is not None]
    if len(groundings) == len(outcomes):
        grounding = grounding_figures(groundings, [outcome.pair for outcome in outcomes])
        figures |= {f"grounding/{name}": interval for name, interval in grounding.items()}
    return figures
