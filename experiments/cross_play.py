"""Civilians of one seed with voters of another, for all runs of an arm at once: the measure of the study cross_play.

Every run's last checkpoint plays with every other by `python -m vision_zero.evaluate cross-play`, under the runs' own
settings, on drawings that no training uses. What the figures mean: `vision_zero.evaluate.win_rate.cross_play`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from files import Line
from study import ALL_SEEDS, Study
from tables import Done, markdown
from vision_zero.evaluate.win_rate.cross_play import main as cross_play

GAMES, HELDOUT = "500", "500"
CLUES = ("true", "copied", "no_claim")


def matrix(models: Sequence[Path], start: Path) -> Line:
    """What a result line keeps: games, figures by name, T by civilians and voters, each model's play with itself."""
    words = ["--reference", str(start), "--drawn", HELDOUT, "--games", GAMES, "--use_cpu", "true"]
    line = cross_play([*map(str, models), *words])
    return {name: line[name] for name in ("games", "figures", "over_models", "found", "play")}


def cross_play_table(study: Study, done: Done) -> str:
    """For every arm the matrix, convention and skill, and what the civilians of each seed say with their own voters."""
    parts = []
    for arm, line in ((arm.name, done[arm.name, ALL_SEEDS]) for arm in study.arms if (arm.name, ALL_SEEDS) in done):
        final = line["final"]
        of = dict(zip(final["found"], ["start", *(f"seed {seed}" for seed in line["seeds"])], strict=True))
        found = [[of[name], *(f"{share[0]:.3f}" for share in row.values())] for name, row in final["found"].items()]
        parts.append(f"`{arm}`, {final['games']} games each: spy found by civilians of a row with voters of a column")
        parts.append(markdown(["civilians", *of.values()], found))
        for name in ("convention", "skill"):
            over_seeds = figure(final["over_models"].get(name))
            parts.append(f"{name}: {figure(final['figures'][name])} over image pairs, {over_seeds} over seeds.")
        shares = [
            [of[name], *(figure(some.get(f"grounding/civilian/{one}")) for one in CLUES)]
            for name, some in final["play"].items()
        ]
        parts.append("Clues of civilians with voters of their own:")
        parts.append(markdown(["model", *CLUES], shares))
    return "\n\n".join(parts)


def figure(found: Sequence[float | None] | None) -> str:
    """`0.650 (0.610 to 0.690)`; – for none."""
    if found is None:
        return "–"
    value, low, high = found
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
