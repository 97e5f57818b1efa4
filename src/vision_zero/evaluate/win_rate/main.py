"""`python -m vision_zero.evaluate win-rate`: models against a frozen one, as a table and as JSON lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vision_zero.evaluate.win_rate.arena import make_arena
from vision_zero.evaluate.win_rate.match import Contest, Verdict
from vision_zero.evaluate.win_rate.metrics import CROSS_PLAY, ITSELF, WIN_RATE, WITH_ANOTHER_SEED, Figures
from vision_zero.evaluate.win_rate.options import WinRateOptions
from vision_zero.models import check_model, find_models, step_of
from vision_zero.rollout.load_policy import load_player
from vision_zero.rollout.progress import game_bar
from vision_zero.run_folder import append_json_line, check_appendable

IN_ONE_LINE = ("win_rate", "as_table", "as_spy", "sight")
"""Figures of the table that puts several models beside each other."""


def compare(options: WinRateOptions) -> list[dict[str, Any]]:
    """One line per model, printed and appended to `options.config.out` as soon as it is there.

    Raises ValueError, OSError or BadImageError, before anything is played where that can be known.
    """
    config = options.config
    models = find_models(options.models)
    for model in filter(None, (config.reference, config.other_seed, *models)):
        check_model(model)
    if config.out:
        check_appendable(Path(config.out), "--out")
    line_ups = WITH_ANOTHER_SEED if config.other_seed else CROSS_PLAY if config.cross_play else (*WIN_RATE, ITSELF)
    pairs = options.pairs()
    arena = make_arena(
        pairs,
        options.rules,
        options.limits,
        n_deals=config.games // 2,
        seed=config.seed,
        template=options.game.template,
        skip_bad=options.game.on_bad_image == "skip",
        games_at_once=config.rollout_batch_size,
    )
    loading = options.loading
    start = load_player(str(config.reference), loading)
    other = load_player(config.other_seed, loading) if config.other_seed else None
    lines = []
    contest = Contest(arena, start, other)
    with game_bar("playing", *contest.size(line_ups, len(models))) as contest.on_call:
        for model in models:
            started = time.perf_counter()
            new = start if model == config.reference else load_player(model, loading)
            verdict = contest.against(new, line_ups)
            line = {
                "model": model,
                "step": step_of(model),
                **verdict_line(verdict),
                "games": config.games,
                "line_ups": len(line_ups),
                "pairs": len({deal.pair.id for deal in arena.deals}),
                "seconds": round(time.perf_counter() - started, 1),
                "settings": options.settings(),
            }
            lines.append(line)
            tqdm.write(f"{model} against {config.reference}, {config.games} games\n{table(verdict)}\n")
            if config.out:
                append(Path(config.out), line)
    if len(lines) > 1:
        print(side_by_side(lines))
    return lines


def append(out: Path, line: Mapping[str, Any]) -> None:
    """Raises ValueError with the file, as when the disk is full."""
    try:
        append_json_line(out, line)
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written: {error.strerror}") from error


def verdict_line(verdict: Verdict) -> dict[str, Any]:
    """`figures` and `start`: name -> [value, low, high]."""
    return {"figures": _plain(verdict.figures), "start": _plain(verdict.start)}


def _plain(figures: Figures) -> dict[str, list[float]]:
    return {name: [round(value, 6) for value in astuple(interval)] for name, interval in figures.items()}


def table(verdict: Verdict) -> str:
    """A figure a line, with its interval and, where the frozen model has it too, its value beside it."""
    rows = [
        f"  {name:<24} {interval!s:<26}" + (f" start {verdict.start[name]}" if name in verdict.start else "")
        for name, interval in verdict.figures.items()
    ]
    return "\n".join(row.rstrip() for row in rows)


def side_by_side(lines: Sequence[Mapping[str, Any]]) -> str:
    """A model a line: the figures of IN_ONE_LINE with their intervals."""
    width = max(len(line["model"]) for line in lines)
    head = f"{'model':<{width}}  " + "  ".join(f"{name:<22}" for name in IN_ONE_LINE)
    rows = [
        f"{line['model']:<{width}}  "
        + "  ".join("{:.3f} ({:.3f} to {:.3f})".format(*line["figures"][name]).ljust(22) for name in IN_ONE_LINE)
        for line in lines
    ]
    return "\n".join(row.rstrip() for row in (head, *rows))
