"""Picture of the curves of a run: `python -m vision_zero.report RUN --curves`.

It has, from metrics.jsonl and arena.jsonl (docs/runs.md), the win rate against the frozen start, the share of games
in which the spy is found, and the share of true clues. Bands are clue stages. A run that is not finished, or has no
arena, is drawn as far as it goes.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from vision_zero import run_folder
from vision_zero.config.game import beside
from vision_zero.report.metrics_log import Figures, chance, read_arena, read_iterations, stage_spans
from vision_zero.run_folder import marked, writing_for

BAND = "#e8d9b5"
WIDTH, HEIGHT, DPI = 4.0, 3.7, 130
VECTOR = ("svg", "pdf", "ps", "eps")


PANELS: dict[str, list[list[Any]]] = beside(__file__)
"""Curves by title, each with the arguments of `draw_series`."""
WIN_RATE, VOTES, _ = PANELS


def plot_run(run: Path) -> Figure:
    """The figure of a run folder. Raises RunFolderError if it has no iteration, or a file is damaged."""
    config, iterations = run_folder.read_config(run), read_iterations(run)
    if not iterations:
        raise run_folder.RunFolderError(f"{run} has not finished an iteration yet")
    steps_per_iteration = iterations[1]["step"] - iterations[0]["step"] if len(iterations) > 1 else 1
    notes: list[str] = []
    arena = [(step / steps_per_iteration, figures) for step, figures in read_arena(run, notes)]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    panels = PANELS if arena else {VOTES: PANELS[VOTES]}
    figure = Figure(figsize=(WIDTH * len(panels), HEIGHT), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for span in stage_spans(iterations):
            if span.stage == "clue":
                axes.axvspan(span.first - 1, span.last, color=BAND, alpha=0.55, linewidth=0)
        for one in series:
            draw_series(axes, arena, *one)
        if title == VOTES:  # of the training games themselves, every iteration
            numbers = range(1, len(iterations) + 1)
            accuracy = [line["stage/accuracy"] for line in iterations]
            axes.plot(numbers, accuracy, color="#888888", linewidth=0.6, alpha=0.7, label="training games")
        if (level := {VOTES: chance(config), WIN_RATE: 0.5}.get(title)) is not None:
            label = "chance of one vote" if title == VOTES else "chance"
            axes.axhline(level, color="grey", linewidth=0.8, linestyle=":", label=label)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("iteration (shaded: clue stage)", fontsize=8)
        axes.set_xlim(0, len(iterations))
        axes.set_ylim(0, 1)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.2)
        if axes.get_legend_handles_labels()[0]:
            # Below the axes, where it covers no curve.
            axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)
    return figure


def draw_series(
    axes: Axes, arena: Sequence[tuple[float, Figures]], name: str, label: str, colour: str, band: bool = False
) -> None:
    """Draw the curve of the arena's figure `name`, as far as a run has it; `band`: with its interval."""
    points = [(step, *figures[name]) for step, figures in arena if name in figures]
    if not points:
        return
    steps, values, lows, highs = zip(*points, strict=True)
    axes.plot(steps, values, color=colour, label=label, linewidth=1.8 if band else 1.1)
    if band:
        low, high = np.array(lows, float), np.array(highs, float)  # None becomes NaN
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def save_figure(draw: Callable[[], Figure], out: Path) -> None:
    """Draw, and write to `out`. Raises RunFolderError, first for a name that matplotlib would change."""
    kind, others = out.suffix[1:].lower(), {"pgf", "raw", "rgba", "svgz"}
    known = FigureCanvasBase.get_supported_filetypes().keys() - others
    if out.is_dir() or kind not in known:
        raise run_folder.RunFolderError(f"--out {out}: must be a file that ends in one of .{', .'.join(sorted(known))}")
    run_folder.check_own(out, "--out")
    figure = draw()
    vector = {"metadata": {"Creator": run_folder.MARK}}
    with writing_for(out, "--out"):
        figure.savefig(out, dpi=DPI, **(vector if kind in VECTOR else {"pil_kwargs": {"exif": marked()}}))
