"""`python -m vision_zero.evaluate cross-play`: what civilians gain with voters of their own training, and of others'."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vision_zero.evaluate.bootstrap import RESAMPLED, Interval
from vision_zero.evaluate.cross_play.matrix import cross_play_figures, over_models, play_every_pair, share_found
from vision_zero.evaluate.win_rate.arena import Matchup
from vision_zero.evaluate.win_rate.main import append_result, arena_of, plain
from vision_zero.evaluate.win_rate.metrics import START, Figures, play_figures
from vision_zero.evaluate.win_rate.options import PlayConfig, PlayOptions
from vision_zero.evaluate.win_rate.options import parse as parse_options
from vision_zero.models import check_model, find_models, step_of
from vision_zero.rollout.progress import game_bar
from vision_zero.run_folder import EXPORT, check_appendable

SAME = ("reference", "template", "civilians", "rounds", "spy_view", "mask_share", "voter", "votes")
CLUES = ("true", "copied", "no_claim", "discriminative")
"""Figures of civilians' clues that stand beside each model, where scenes are described."""


def main(arguments: Sequence[str]) -> None:
    cross_play(parse(arguments))


def parse(arguments: Sequence[str]) -> PlayOptions:
    what = "Play civilians of every model with voters of every model, against the frozen start as the spy."
    return parse_options(arguments, PlayConfig, "cross-play", what, SAME)


def models_of(names: Sequence[str], reference: str) -> list[str]:
    """The models, of a run its last checkpoint. Raises ValueError for fewer than two, and for one that is there twice."""
    models = [find_models([name])[-1] for name in names]
    if len(models) < 2:
        raise ValueError(f"{models[0]} has nobody to play with: give two models or more")
    paths = [Path(model).resolve() for model in (reference, *models)]
    paths = [path.parent if path.name == EXPORT else path for path in paths]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            first = (reference, *models)[paths.index(path)]
            as_what = "the frozen model" if path == paths[0] else f"{first} too"
            raise ValueError(f"{models[number - 1]} is {as_what}: give every model once, and --reference apart")
    return models


def cross_play(options: PlayOptions) -> dict[str, Any]:
    """The result line, printed as tables, and appended to `options.config.out`.

    Raises ValueError, OSError or BadImageError, before anything is played where that can be known.
    """
    from vision_zero.rollout.load_policy import ModelPlayer, load_player

    config, reference = options.config, str(options.config.reference)
    models = models_of(options.models, reference)
    for model in (reference, *models):
        check_model(model)
    if config.out:
        check_appendable(Path(config.out), "--out", '{"models": ')
    arena = arena_of(options)
    began, tried = time.perf_counter(), set[str]()

    def load(name: str) -> ModelPlayer:
        trial = None if name in tried else arena.deals[0]
        tried.add(name)
        return load_player(reference if name == START else name, options.loading, trial, options.game.template)

    n_games = (len(models) + 1) ** 2 * len(arena.deals)
    with game_bar("playing", n_games, n_games * options.rules.n_turns) as on_call:
        results, players = play_every_pair(arena, models, load, on_call)
    found, figures = share_found(results, models), cross_play_figures(results, models)
    of_models = over_models(found)
    play = {name: play_figures(results[Matchup(name, START, name)]) for name in (START, *models)}
    line = {
        "models": models,
        "steps": [step_of(model) for model in models],
        "reference": reference,
        RESAMPLED: "pairs",
        "found": [list(plain({str(j): one for j, one in enumerate(row)}).values()) for row in found],
        "figures": plain(figures),
        "over_models": plain(of_models),
        "play": {name: plain(some) for name, some in play.items()},
        "games": config.games,
        "matchups": len(results),
        "pairs": len({deal.pair.id for deal in arena.deals}),
        "completions": sum(len(player.cache) for player in players.values()),
        "calls": sum(player.calls for player in players.values()),
        "seconds": round(time.perf_counter() - began, 1),
        "settings": options.settings(),
    }
    print(tables(line, found, figures, of_models, play))
    for name, some in play.items():
        if some["clues/unparsed"].value == 1 or some["votes/invalid"].value == 1:
            tqdm.write(f"warning: {name}: no clues, or no votes, could be parsed; see --template", file=sys.stderr)
    if config.out:
        append_result(Path(config.out), line)
    return line


def tables(
    line: Mapping[str, Any],
    found: Sequence[Sequence[Interval]],
    figures: Figures,
    of_models: Figures,
    play: Mapping[str, Figures],
) -> str:
    """Text: the matrix, the figures, and what civilians of each model say in play with its own voters."""
    short = [START, *map(str, range(1, len(found)))]
    rows = [f"{number:<6} {model}" for number, model in zip(short, (line["reference"], *line["models"]), strict=True)]
    rows += ["", f"spy found by civilians of (row) with voters of (column), {line['games']} games each"]
    rows.append(f"{'':<6}" + "".join(f"{name:>7}" for name in short))
    rows += [f"{name:<6}" + "".join(f"{one.value:7.3f}" for one in row) for name, row in zip(short, found, strict=True)]
    rows.append("")
    for name, interval in figures.items():
        more = f"  over models {of_models[name]}" if name in of_models else ""
        rows.append(f"{name:<13} {interval}{more}")
    clues = [f"grounding/civilian/{name}" for name in CLUES]
    if clues[0] in play[START]:
        rows += ["", "civilians' clues with voters of their own"]
        rows.append(f"{'':<6}" + "".join(f" {name:<24}" for name in CLUES).rstrip())
        for number, some in zip(short, play.values(), strict=True):
            rows.append(f"{number:<6}" + "".join(f" {some[name]!s:<24}" for name in clues).rstrip())
    rows += ["", f"{line['completions']} completions in {line['calls']} calls of generate"]
    return "\n".join(rows)
