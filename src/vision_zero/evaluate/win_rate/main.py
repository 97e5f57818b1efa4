"""`python -m vision_zero.evaluate win-rate`: models against a frozen one, as a table and as JSON lines.

What imports torch is imported where models are loaded, so that --help does not wait for it.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from vision_zero.evaluate.bootstrap import RESAMPLED
from vision_zero.evaluate.win_rate.arena import Arena, make_arena
from vision_zero.evaluate.win_rate.match import Match, MatchResult
from vision_zero.evaluate.win_rate.metrics import CROSS_PLAY, ITSELF, WIN_RATE, WITH_ANOTHER_SEED, Figures
from vision_zero.evaluate.win_rate.options import PlayOptions, WinRateConfig, parse
from vision_zero.models import check_model, find_models, step_of
from vision_zero.rollout.progress import game_bar
from vision_zero.run_folder import append_json_line, check_appendable, writing_for

IMAGE_GAIN = "share of right votes with the true image minus with another game's image, same clues and seeds"
IN_ONE_LINE = ("win_rate", "as_table", "as_spy", "image_gain")
"""Figures of the table of several models."""


def arena_of(options: PlayOptions) -> Arena:
    """The arena of a command, on the pairs that its run held out. Raises ValueError or BadImageError."""
    return make_arena(
        options.game.pairs("heldout"),  # all pairs where there is no split
        options.rules,
        options.token_limits,
        n_deals=options.config.games // options.config.plays_of_a_deal,
        seed=options.config.seed,
        template=options.game.template,
        skip_bad=options.game.on_bad_image == "skip",
        games_at_once=options.config.rollout_batch_size,
    )


def main(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Result lines of all models; each is printed, and appended to --out, as soon as it is there.

    Raises ValueError, OSError or BadImageError, before anything is played where that can be known.
    """
    options = parse(arguments)
    from vision_zero.rollout.load_policy import load_player  # after what can be refused without torch

    config = cast(WinRateConfig, options.config)
    models = find_models(options.models)
    for model in filter(None, (config.reference, config.other_seed, *models)):
        check_model(model)
    if config.out:
        check_appendable(Path(config.out), "--out", '{"model": ')
    matchups = WITH_ANOTHER_SEED if config.other_seed else CROSS_PLAY if config.cross_play else (*WIN_RATE, ITSELF)
    arena = arena_of(options)
    load = partial(load_player, loading=options.loading, game=arena.deals[0], template=options.game.template)
    start = load(str(config.reference))
    other = load(config.other_seed) if config.other_seed else None
    lines = []
    match = Match(arena, start, other)
    with game_bar("playing", *match.size(matchups, len(models))) as match.on_call:
        for model in models:
            started = time.perf_counter()
            new = start if model == config.reference else load(model)
            result = match.against(new, matchups)
            line = {
                "model": model,
                "step": step_of(model),
                **result_line(result),
                "games": config.games,
                "matchups": len(matchups),
                "pairs": len({deal.pair.id for deal in arena.deals}),
                "seconds": round(time.perf_counter() - started, 1),
                "settings": options.settings(),
            }
            lines.append(line)
            tqdm.write(f"{model} against {config.reference}, {config.games} games\n{figures_table(result)}\n")
            for what in result.unreadable():
                tqdm.write(f"warning: {model}: {what}", file=sys.stderr)
            if config.out:
                with writing_for(Path(config.out), "--out"):
                    append_json_line(Path(config.out), line)
    if len(lines) > 1:
        print(models_table(lines))
    return lines


def result_line(result: MatchResult) -> dict[str, Any]:
    """The JSON of a result. `figures` and `start`: name -> [value, low, high]; null: no interval."""
    return {RESAMPLED: "pairs", "figures": plain(result.figures), "start": plain(result.start)}


def plain(figures: Figures) -> dict[str, list[float | None]]:
    return {name: [value and round(value, 6) for value in astuple(interval)] for name, interval in figures.items()}


def figures_table(result: MatchResult) -> str:
    """Text with a figure a line: its interval and, where the frozen model has it too, that one's beside it."""
    rows = [
        f"  {name:<24} {interval!s:<26}" + (f" start {result.start[name]}" if name in result.start else "")
        for name, interval in result.figures.items()
    ]
    if "image_gain" in result.figures:
        rows.append(f"  (image gain: {IMAGE_GAIN})")
    return "\n".join(row.rstrip() for row in rows)


def models_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Text with a model a line: the figures of IN_ONE_LINE with their intervals."""
    width = max(len(line["model"]) for line in lines)
    head = f"{'model':<{width}}  " + "  ".join(f"{name:<22}" for name in IN_ONE_LINE)
    rows = [head]
    for line in lines:
        cells = ("{:.3f} ({:.3f} to {:.3f})".format(*line["figures"][name]).ljust(22) for name in IN_ONE_LINE)
        rows.append(f"{line['model']:<{width}}  " + "  ".join(cells))
    return "\n".join(row.rstrip() for row in rows)
