"""The rules of "Who is the spy?" as a pure state machine: deal, who speaks now, what an answer changes, who won.

A game is a value. `open_turns` lists every turn that can be asked now and `answer` returns the game with one of them
answered, so an engine may play any number of games in any order and get the same games. Nothing here reads a clock or
global random state: the deal of game k is a function of (run seed, k) alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from vision_zero.game.parsing import clean_text, read_clue, read_vote, split_reply
from vision_zero.types import (
    CastVote,
    Clue,
    Game,
    GameRules,
    GameSummary,
    ImagePair,
    Reply,
    Role,
    Turn,
    View,
    Vote,
)

NEUTRAL_CLUE = "(said nothing that could be understood)"
"""What the table hears when a clue could not be read. Fixed, so that it carries no information, and counted."""


@lru_cache(maxsize=4)
def _shuffled_pairs(seed: int, pass_index: int, n_pairs: int) -> tuple[int, ...]:
    order = list(range(n_pairs))
    random.Random(f"vision-zero/pairs/{seed}/{pass_index}").shuffle(order)
    return tuple(order)


def pair_of_game(seed: int, index: int, n_pairs: int) -> int:
    """Which pair game `index` is played on: every pair once per pass, in an order drawn anew for each pass."""
    if n_pairs < 1:
        raise ValueError("there are no image pairs to deal games from")
    return _shuffled_pairs(seed, index // n_pairs, n_pairs)[index % n_pairs]


def resolve_spy_view(pair: ImagePair, rules: GameRules) -> Literal["blank", "edited", "masked"]:
    """What the spy sees of `pair`: `auto` means the edited image where there is one, else a blank image.

    Raises ValueError when `edited` is demanded of a pair that has no second image.
    """
    if rules.spy_view == "auto":
        return "edited" if pair.edited is not None else "blank"
    if rules.spy_view == "edited" and pair.edited is None:
        raise ValueError(
            f"spy_view=edited needs a changed version of {pair.id!r} ({pair.image.name}), which has none; "
            "use spy_view=auto, blank or masked for single images"
        )
    return rules.spy_view


def deal(index: int, seed: int, pair: ImagePair, rules: GameRules) -> Game:
    """Game `index` of the run seeded `seed`, played on `pair`, with the spy in a random seat."""
    spy = random.Random(f"vision-zero/deal/{seed}/{index}").randint(1, rules.n_players)
    return Game(index=index, seed=seed, pair=pair, rules=rules, spy=spy, spy_view=resolve_spy_view(pair, rules))


def deal_games(indices: Sequence[int], seed: int, pairs: Sequence[ImagePair], rules: GameRules) -> list[Game]:
    return [deal(k, seed, pairs[pair_of_game(seed, k, len(pairs))], rules) for k in indices]


def turn_seed(seed: int, turn: Turn) -> int:
    """A 63-bit seed of this turn's sampling noise, a function of (run seed, game, round, seat, sample) alone."""
    name = f"vision-zero/turn/{seed}/{turn.game}/{turn.stage}/{turn.round}/{turn.seat}/{turn.sample}"
    return random.Random(name).getrandbits(63)


def clue_turns(game: Game) -> list[Turn]:
    """Every clue turn of the game in speaking order: rounds of all players, in seat order."""
    rules = game.rules
    return [
        Turn(game.index, "clue", round_, seat, 0)
        for round_ in range(1, rules.n_rounds + 1)
        for seat in range(1, rules.n_players + 1)
    ]


def vote_turns(game: Game) -> list[Turn]:
    """Every vote turn: G by the observer (seat 0), or G / n_c by each civilian's seat. The spy does not vote."""
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
    """Every turn that can be asked now: the next speaker's clue, or all votes still missing; [] when it is over."""
    turns = clue_turns(game)
    if len(game.clues) < len(turns):
        return [turns[len(game.clues)]]
    cast = {vote.turn for vote in game.votes}
    return [turn for turn in vote_turns(game) if turn not in cast]


def answer(game: Game, turn: Turn, reply: Reply) -> Game:
    """The game after `reply` to `turn`. Votes stand in the order of `vote_turns`, whatever order they were cast in.

    Raises ValueError for a turn that is not open.
    """
    if turn not in open_turns(game):
        raise ValueError(f"turn {turn} of game {game.index} cannot be answered now")
    if turn.stage == "decision":
        cast = {vote.turn: vote for vote in game.votes}
        cast[turn] = CastVote(turn, reply, read_vote(reply.text, game.rules.n_players))
        return replace(game, votes=tuple(cast[one] for one in vote_turns(game) if one in cast))
    text = read_clue(reply.text)
    clue = Clue(
        turn=turn,
        reply=reply,
        text=NEUTRAL_CLUE if text is None else text,
        reasoning=clean_text(split_reply(reply.text)[0]),
        readable=text is not None,
    )
    return replace(game, clues=(*game.clues, clue))


def view_of(game: Game, turn: Turn) -> View:
    """Whose image this turn is played with. Votes are cast on the civilians' image."""
    if turn.stage == "clue" and game.role(turn.seat) is Role.SPY:
        return "spy"
    return "civilian"


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
        unreadable_clues=sum(not clue.readable for clue in game.clues),
        clue_lengths=tuple(len(clue.reply.token_ids) for clue in game.clues),
        vote_lengths=tuple(len(cast.reply.token_ids) for cast in game.votes),
    )
