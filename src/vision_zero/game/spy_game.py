"""Rules of "Who is the spy?" as a pure state machine: deal, open turns, transitions, votes.

A game is a value. `open_turns` lists its open turns and `answer` returns the game after one of them, so any number of
games can be played in any order with the same result. There is no clock and no global random state: the deal of game k
is a function of (run seed, k) alone.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from vision_zero.game.parsing import clean_text, read_clue, read_vote, split_completion
from vision_zero.types import CastVote, Clue, Completion, Game, GameRules, GameSummary, ImagePair, Turn, View, Vote

NEUTRAL_CLUE = "(said nothing that could be understood)"
"""Public text of an unparsed clue. Fixed, so that it carries no information."""


@lru_cache(maxsize=4)
def _shuffled_pairs(seed: int, pass_index: int, n_pairs: int) -> tuple[int, ...]:
    order = list(range(n_pairs))
    random.Random(f"vision-zero/pairs/{seed}/{pass_index}").shuffle(order)
    return tuple(order)


def pair_of_game(seed: int, index: int, n_pairs: int) -> int:
    """Index of the pair of game `index`: every pair once per pass, in a new random order for each pass."""
    if n_pairs < 1:
        raise ValueError("there are no image pairs to deal games from")
    return _shuffled_pairs(seed, index // n_pairs, n_pairs)[index % n_pairs]


def deal(index: int, seed: int, pair: ImagePair, rules: GameRules) -> Game:
    """Game `index` of the run seeded `seed`, played on `pair`, with the spy in a random seat.

    The spy's view `auto` is the edited image if there is one, else blank. Raises ValueError for `edited` without one.
    """
    if rules.spy_view == "edited" and pair.edited is None:
        raise ValueError(
            f"spy_view=edited needs a changed version of {pair.id!r} ({pair.image.name}), which has none; "
            "use spy_view=auto, blank or masked for single images"
        )
    spy_view = rules.spy_view
    if spy_view == "auto":
        spy_view = "blank" if pair.edited is None else "edited"
    spy = random.Random(f"vision-zero/deal/{seed}/{index}").randint(1, rules.n_players)
    return Game(index=index, seed=seed, pair=pair, rules=rules, spy=spy, spy_view=spy_view)


def deal_games(indices: Sequence[int], seed: int, pairs: Sequence[ImagePair], rules: GameRules) -> list[Game]:
    return [deal(k, seed, pairs[pair_of_game(seed, k, len(pairs))], rules) for k in indices]


def turn_seed(seed: int, turn: Turn) -> int:
    """63-bit sampling seed of a turn, a function of (run seed, game, stage, round, seat, sample) alone."""
    name = f"vision-zero/turn/{seed}/{turn.game}/{turn.stage}/{turn.round}/{turn.seat}/{turn.sample}"
    return random.Random(name).getrandbits(63)


def clue_turns(game: Game) -> list[Turn]:
    """All clue turns in speaking order: by round, then by seat."""
    rules = game.rules
    return [
        Turn(game.index, "clue", round_, seat, 0)
        for round_ in range(1, rules.n_rounds + 1)
        for seat in range(1, rules.n_players + 1)
    ]


def vote_turns(game: Game) -> list[Turn]:
    """All vote turns: G of the observer (seat 0), or G / n_c of each civilian. The spy does not vote."""
    rules = game.rules
    if rules.voter == "observer":
        return [Turn(game.index, "decision", 0, 0, sample) for sample in range(rules.n_votes)]
    return [
        Turn(game.index, "decision", 0, seat, sample)
        for seat in range(1, rules.n_players + 1)
        if seat != game.spy
        for sample in range(rules.n_votes // rules.n_civilians)
    ]


def open_turns(game: Game) -> list[Turn]:
    """Open turns: the next speaker's clue, or all missing votes; [] when the game is over."""
    turns = clue_turns(game)
    if len(game.clues) < len(turns):
        return [turns[len(game.clues)]]
    cast = {vote.turn for vote in game.votes}
    return [turn for turn in vote_turns(game) if turn not in cast]


def answer(game: Game, turn: Turn, completion: Completion) -> Game:
    """The game after a completion, votes in the order of `vote_turns`. Raises ValueError if the turn is not open."""
    if turn not in open_turns(game):
        raise ValueError(f"turn {turn} of game {game.index} cannot be answered now")
    if turn.stage == "decision":
        cast = {vote.turn: vote for vote in game.votes}
        cast[turn] = CastVote(turn, completion, read_vote(completion.text, game.rules.n_players))
        return replace(game, votes=tuple(cast[one] for one in vote_turns(game) if one in cast))
    text = read_clue(completion.text)
    clue = Clue(
        turn=turn,
        completion=completion,
        text=NEUTRAL_CLUE if text is None else text,
        reasoning=clean_text(split_completion(completion.text)[0]),
        parsed=text is not None,
    )
    return replace(game, clues=(*game.clues, clue))


def view_of(game: Game, turn: Turn) -> View:
    """Role whose image a turn shows. Votes are cast on the civilians' image."""
    return "spy" if turn.stage == "clue" and turn.seat == game.spy else "civilian"


def votes_in_order(game: Game) -> list[Vote]:
    """The votes in the order of `vote_turns`. Raises ValueError if one is missing."""
    missing = game.rules.n_votes - len(game.votes)
    if missing:
        raise ValueError(f"game {game.index} is not over: {missing} of {game.rules.n_votes} votes are missing")
    return [cast.vote for cast in game.votes]


def summarize(game: Game) -> GameSummary:
    return GameSummary(
        game=game.index,
        spy=game.spy,
        n_players=game.rules.n_players,
        votes=tuple(votes_in_order(game)),
        unparsed_clues=sum(not clue.parsed for clue in game.clues),
        clue_lengths=tuple(len(clue.completion.token_ids) for clue in game.clues),
        vote_lengths=tuple(len(cast.completion.token_ids) for cast in game.votes),
        clues=tuple(" ".join(clue.text.lower().split()) for clue in game.clues if clue.parsed),
    )
