"""`python -m vision_zero.evaluate cross-play`: civilians of every model with voters of every model, on the same deals.

The frozen start is the spy. With T(i, j) the share of games in which civilians of i and voters of j find it:

    convention   mean of T(i, i) - mean of T(i, j), i != j    what players gain with voters of their own training alone
    skill        mean of T(i, j), i != j - T(start, start)    what they gain with voters of another training
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vision_zero.evaluate.bootstrap import RESAMPLED, ROUNDING, Interval, students_t
from vision_zero.evaluate.win_rate.arena import Arena, GameOutcome, Matchup, OutcomesByMatchup
from vision_zero.evaluate.win_rate.main import arena_of, plain
from vision_zero.evaluate.win_rate.match import CachedPolicy
from vision_zero.evaluate.win_rate.metrics import START, Figures, by_pair, play_figures
from vision_zero.evaluate.win_rate.options import parse
from vision_zero.models import check_model, find_models
from vision_zero.rollout.progress import game_bar
from vision_zero.run_folder import EXPORT, append_json_line, check_appendable, writing_for

CLUES = ("true", "copied", "no_claim", "unparsed")
"""Shares of each model's civilians' clues in play with itself, in the table; where scenes are described."""


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """The result line, printed as tables, and appended to --out.

    Raises ValueError, OSError or BadImageError, before anything is played where that can be known.
    """
    options, began = parse(arguments, "cross-play"), time.perf_counter()
    config = options.config
    models = distinct_models(str(config.reference), options.models)
    for model in models.values():
        check_model(model)
    if config.out:
        check_appendable(Path(config.out), "--out", '{"models": ')
    arena = arena_of(options)
    from vision_zero.rollout.load_policy import load_player  # after what can be refused without torch

    def load(name: str) -> Any:
        return load_player(models[name], options.loading, arena.deals[0], options.game.template)

    n_games = len(models) ** 2 * len(arena.deals)
    with game_bar("playing", n_games, n_games * options.rules.n_turns) as on_call:
        results, players = play_every_pair(arena, list(models), load, on_call)
    found, figures, over_models = cross_play_figures(results, list(models))
    play = {name: play_figures(results[Matchup(name, START, name)]) for name in models}
    line = {
        "models": models,
        RESAMPLED: "pairs",
        "found": {name: plain(row) for name, row in found.items()},
        "figures": plain(figures),
        "over_models": plain(over_models),
        "play": {name: plain(some) for name, some in play.items()},
        "games": config.games,
        "completions": sum(len(player.cache) for player in players.values()),
        "calls": sum(player.calls for player in players.values()),
        "seconds": round(time.perf_counter() - began, 1),
        "settings": options.settings(),
    }
    print(*(f"{name:<6} {model}" for name, model in models.items()), sep="\n")
    print(f"\nspy found by civilians of (row) with voters of (column), {config.games} games each")
    print_rows({"": list(found), **{c: [f"{one.value:.3f}" for one in row.values()] for c, row in found.items()}}, 6)
    more = {name: [f"over models {one}"] for name, one in over_models.items()}
    print_rows({"": [], **{name: [str(one), *more.get(name, [])] for name, one in figures.items()}})
    if f"grounding/civilian/{CLUES[0]}" in play[START]:
        print("\nclues of each one's civilians, in play with itself and the start as the spy")
        clues = {c: [str(some[f"grounding/civilian/{name}"]) for name in CLUES] for c, some in play.items()}
        print_rows({"": CLUES, **clues})
    print(f"\n{line['completions']} completions, in {line['calls']} calls of the models")
    if config.out:
        with writing_for(Path(config.out), "--out"):
            append_json_line(Path(config.out), line)
    return line


def distinct_models(reference: str, names: Sequence[str]) -> dict[str, str]:
    """START and the models, of a run its last checkpoint, by number. Raises ValueError for one model, or one twice."""
    if len(names) < 2:
        raise ValueError(f"{names[0]} has no other to play with: give two models or more")
    models = {START: reference, **{str(n): find_models([name])[-1] for n, name in enumerate(names, start=1)}}
    seen: dict[Path, str] = {}
    for name, model in models.items():
        path = Path(model).resolve()
        other = seen.setdefault(path.parent if path.name == EXPORT else path, name)
        if other != name:
            also = "--reference" if other == START else models[other]
            raise ValueError(f"{model} is named twice, also as {also}: give each model once, --reference apart")
    return models


def play_every_pair(
    arena: Arena, names: Sequence[str], load: Callable[[str], Any], on_call: Callable[[int], None]
) -> tuple[dict[Matchup, list[GameOutcome]], dict[str, CachedPolicy]]:
    """Outcomes of all civilians with all voters, START first, and what each player said. Two models are in memory:
    START, and another, which gives its clues once and votes on them and on those before it. All but the last are loaded
    again, to vote on the clues of the models after them.
    """
    players = {name: CachedPolicy(None) for name in names}
    loaded: dict[str, Any] = {}

    def forget() -> None:
        for model in loaded.values():
            model.forget()

    results: dict[Matchup, list[GameOutcome]] = {}
    asked = [(voters, names[: number + 1]) for number, voters in enumerate(names)]
    asked += [(voters, names[number + 1 :]) for number, voters in enumerate(names[:-1]) if voters != START]
    for voters, civilians in asked:
        matchups = [Matchup(name, START, voters) for name in civilians]
        if voters in civilians:
            matchups.append(Matchup(voters, START, START))
        players[voters].policy = loaded[voters] = load(voters)
        forget()
        results |= arena.play(matchups, players, on_call=on_call, after_chunk=forget)
        if voters != START:
            players[voters].policy = None
            del loaded[voters]
            gc.collect()  # its modules refer to each other
    return results, players


def cross_play_figures(results: OutcomesByMatchup, names: Sequence[str]) -> tuple[dict[str, Figures], Figures, Figures]:
    """T by civilians and voters, START first; convention, skill and their parts with intervals over image pairs (other
    pictures, these models); from three models on the two over models too (other models, these deals), else {}: the
    jackknife, as entries of one model are not independent, with Student's t, 3% short at three models (`students_t`).
    """
    won_CVD = np.array([[[o.table_won for o in results[Matchup(c, START, v)]] for v in names] for c in names], float)
    mean, gain = by_pair(results[Matchup(START, START, START)])
    found = {c: {v: mean(won_CVD[i, j].tolist()) for j, v in enumerate(names)} for i, c in enumerate(names)}
    own_D, others_D, start_D = (part.tolist() for part in _parts(won_CVD))
    means = {"own voters": mean(own_D), "other voters": mean(others_D), "start": mean(start_D)}
    figures = {"convention": gain(own_D, others_D), "skill": gain(others_D, start_D), **means}
    n, found_CV = len(names) - 1, won_CVD.mean(-1)
    if n < 3:
        return found, figures, {}
    left_out = [_parts(np.delete(np.delete(found_CV, one, 0), one, 1)) for one in range(1, n + 1)]
    over_models = {}
    for number, name in enumerate(("convention", "skill")):
        spread = float(np.std([parts[number] - parts[number + 1] for parts in left_out]))
        value, half = figures[name].value, students_t(n - 1) * (n - 1) ** 0.5 * spread
        ends = (None, None) if spread < ROUNDING else (value - half, value + half)  # models alike say nothing of others
        over_models[name] = Interval(value, *ends)
    return found, figures, over_models


def _parts(found_CV: np.ndarray) -> tuple[Any, Any, Any]:
    """Means of T(i, i) and of T(i, j), i != j, and T(start, start); of an array with deals too, by deal."""
    models_CV = found_CV[1:, 1:]
    n, own = len(models_CV), np.trace(models_CV)
    return own / n, (models_CV.sum((0, 1)) - own) / (n * (n - 1)), found_CV[0, 0]


def print_rows(rows: Mapping[str, Sequence[str]], width: int = 24) -> None:
    for name, cells in rows.items():
        print(f"{name:<13}" + " ".join(f"{cell:<{width}}" for cell in cells).rstrip())
