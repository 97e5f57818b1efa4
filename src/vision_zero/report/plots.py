"""Pictures of a run: `python -m vision_zero.report RUN --curves` and `--game`.

The curves are, from metrics.jsonl and arena.jsonl (docs/runs.md), the win rate against the frozen start, the share of
games in which the spy is found, and the share of true clues. Bands are clue stages. A run that is not finished, or has
no arena, is drawn as far as it goes. A game has both images, every clue in order, the votes and the rewards.
"""

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from PIL import Image

from vision_zero import run_folder
from vision_zero.config.game import beside
from vision_zero.report.games import shown_fields
from vision_zero.report.metrics_log import Figures, chance, read_arena, read_iterations, stage_spans
from vision_zero.rollout.record import seen_images
from vision_zero.run_folder import RunFolderError, marked, writing_for
from vision_zero.types import ImagePair

BAND = "#e8d9b5"
WIDTH, HEIGHT, DPI = 4.0, 3.7, 130
VECTOR = ("svg", "pdf", "ps", "eps")
SPY, CIVILIAN, GREY = "#c0392b", "#2c5f8a", "#666666"
CLUE_WIDTH = 74
"""Characters per line of a clue."""

PANELS: dict[str, list[list[Any]]] = beside(__file__)
"""Curves by title, each with the arguments of `draw_series`."""
WIN_RATE, VOTES, _ = PANELS

Record = Mapping[str, Any]


def plot_run(run: Path) -> Figure:
    """The figure of a run folder. Raises RunFolderError if it has no iteration, or a file is damaged."""
    config, iterations = run_folder.read_config(run), read_iterations(run)
    if not iterations:
        raise RunFolderError(f"{run} has not finished an iteration yet")
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
        raise RunFolderError(f"--out {out}: must be a file that ends in one of .{', .'.join(sorted(known))}")
    run_folder.check_own(out, "--out")
    figure = draw()
    vector = {"metadata": {"Creator": run_folder.MARK}}
    with writing_for(out, "--out"):
        figure.savefig(out, dpi=DPI, **(vector if kind in VECTOR else {"pil_kwargs": {"exif": marked()}}))


def find_game(run: Path, step: int | None = None, game: int | None = None) -> Record:
    """The record of one game. Raises RunFolderError, which names the games that there are."""
    folder = run / run_folder.GAMES
    steps = dict(run_folder.game_files(run))
    if not steps:
        raise RunFolderError(f"{folder} holds no games; they are recorded with --record_games_every 1")
    if step is not None and step not in steps:
        raise RunFolderError(f"{folder} has no games of step {step}; recorded are {min(steps)} to {max(steps)}")
    path = steps[max(steps) if step is None else step]
    records = run_folder.read_json_lines(path)
    for record in records:
        if game is None or record.get("game") == game:
            try:
                return shown_fields(record)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RunFolderError(
                    f"{path} holds what is not a recorded game ({type(error).__name__}: {error})"
                ) from error
    raise RunFolderError(f"{path} has no game {game}; it holds {', '.join(str(one.get('game')) for one in records)}")


def plot_game(record: Record, pairs: Mapping[str, ImagePair] | None = None) -> Figure:
    """The picture of one game record; `pairs`: the run's pairs by id, as far as they can be read."""
    clue_lines = [textwrap.wrap(_drawable(clue["clue"]), CLUE_WIDTH) or [""] for clue in record["clues"]]
    n_lines = sum(map(len, clue_lines)) + len({clue["round"] for clue in record["clues"]})
    height = max(5.2, 2.6 + 0.24 * n_lines)
    figure = Figure(figsize=(10.5, height), dpi=100, facecolor="white")
    civilian_image, spy_image = seen_images(record, pairs)
    views = {"blank": "a blank image", "edited": "a changed image", "masked": "part of the image"}
    for top, image, title, colour in (
        (0.53, civilian_image, "The civilians see", CIVILIAN),
        (0.04, spy_image, f"The spy sees {views[record['spy_view']]}", SPY),
    ):
        axes = figure.add_axes((0.02, top, 0.28, 0.41))
        axes.imshow(image)
        axes.set_anchor("W")
        axes.set_title(title, fontsize=10, color=colour, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
    votes_height = 1.55 / height
    upper = figure.add_axes((0.33, votes_height + 0.05, 0.66, 0.93 - votes_height))
    draw_clues(upper, record["clues"], record["spy"], clue_lines)
    draw_votes(figure.add_axes((0.36, 0.42 / height, 0.61, votes_height - 0.42 / height)), record)
    return figure


def _drawable(text: str) -> str:
    """The text without what no font has: control characters and lone surrogates."""
    return "".join(one if one.isprintable() or one.isspace() else "\N{REPLACEMENT CHARACTER}" for one in text)


def save_with_few_colours(figure: Figure, out: Path) -> None:
    """Write the picture, a PNG with 128 colours: a quarter of the size. Raises RunFolderError if that fails."""
    save_figure(lambda: figure, out)
    if out.suffix.lower() == ".png":
        with Image.open(out) as picture:
            few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(out, optimize=True, exif=marked())


def draw_clues(axes: Axes, clues: Sequence[Record], spy: int, clue_lines: Sequence[Sequence[str]]) -> None:
    """Every clue on its own line, in the order they were said, the spy's in red."""
    axes.set_axis_off()
    n_lines = sum(map(len, clue_lines)) + len({clue["round"] for clue in clues})
    line_height, y, round_ = 1.0 / n_lines, 1.0, 0
    for clue, lines in zip(clues, clue_lines, strict=True):
        if clue["round"] != round_:
            round_ = clue["round"]
            axes.text(0, y, f"Round {round_}", fontsize=10, va="top", weight="bold")
            y -= line_height
        colour = SPY if clue["seat"] == spy else CIVILIAN
        name = f"player {clue['seat']}" + (" (spy)" if clue["seat"] == spy else "")
        axes.text(0.0, y, name, fontsize=10, va="top", color=colour)
        style = "normal" if clue["parsed"] else "italic"
        said = "\n".join(lines)
        axes.text(0.17, y, said, fontsize=10, va="top", style=style, linespacing=1.15, parse_math=False)
        y -= line_height * len(lines)


def draw_votes(axes: Axes, record: Record) -> None:
    """A bar per answer, and each player's reward for its clues beneath."""
    seats = range(1, record["rules"]["n_civilians"] + 2)
    outcome = record["outcome"]
    answers = [*seats, None, *([0] if 0 in outcome else [])]
    counts = [outcome.count(answer) for answer in answers]
    colours = [SPY if answer == record["spy"] else CIVILIAN if answer else GREY for answer in answers]
    bars = axes.bar(range(len(answers)), counts, color=colours, width=0.6)
    axes.bar_label(bars, fontsize=10)
    names = {None: "N/A", 0: "invalid"}
    for seat, reward in zip(seats, record["clue_rewards"], strict=True):
        names[seat] = f"player {seat}{' (spy)' if seat == record['spy'] else ''}\n{reward + 0.0:+.2f}"  # no "-0.00"
    axes.set_xticks(range(len(answers)), [names[answer] for answer in answers], fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(0, max(counts) * 1.25)
    axes.set_title(
        f"{len(outcome)} votes on who is the spy; below each player, what its clues earned", fontsize=10, loc="left"
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
