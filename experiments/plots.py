"""Curves of a study: the mean over seeds of each arm, with its 95% t-interval as a band."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from files import Line
from over_seeds import OverSeeds, over_seeds
from study import Study

PANELS = (
    ("curve", ("win_rate",), "win rate against the start"),
    ("curve", ("votes/right",), "votes that are right, games with itself"),
    ("training", ("stage/na_rate", "votes/invalid"), "votes for nobody (N/A, unparsed), training games"),
)
"""The part of a result line, the figures whose sum is drawn, the title."""
SVG = {"svg.hashsalt": "vision-zero", "svg.fonttype": "path"}


def values(line: Line, part: str, names: Sequence[str]) -> dict[int, float]:
    """The sum of the named figures by iteration, where all are there."""
    found = {}
    for point in line.get(part, ()):
        figures = point["figures"]
        if all(name in figures for name in names):
            # figures of held-out games come with their interval
            found[point["iteration"]] = sum(figures[name][0] if part == "curve" else figures[name] for name in names)
    return dict(sorted(found.items()))


def curve(lines: Sequence[Line], part: str, names: Sequence[str]) -> dict[int, OverSeeds]:
    """`values` over the seeds that have them."""
    by_iteration: dict[int, list[float]] = {}
    for line in lines:
        for iteration, value in values(line, part, names).items():
            by_iteration.setdefault(iteration, []).append(value)
    return {iteration: over_seeds(found) for iteration, found in sorted(by_iteration.items())}


def plot(study: Study, done: Mapping[tuple[str, int], Line]) -> str | None:
    """An SVG file's text, the same for the same results; None without any curve."""
    figure = Figure(figsize=(12.0, 3.5), layout="constrained")
    drawn = False
    for axes, (part, names, title) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for number, arm in enumerate(study.arms):
            points = curve([line for (of, _), line in done.items() if of == arm.name], part, names)
            if not points:
                continue
            drawn = True
            steps, colour = list(points), f"C{number % 10}"
            axes.plot(steps, [point.value for point in points.values()], color=colour, label=arm.name, linewidth=1.4)
            bands = {step: point for step, point in points.items() if point.low is not None}
            lows, highs = [point.low for point in bands.values()], [point.high for point in bands.values()]
            axes.fill_between(list(bands), lows, highs, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("iteration", fontsize=8)
        axes.set_ylim(0, 1)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    if not drawn:
        return None
    figure.axes[0].axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    # Below the panels, where it covers no curve; every arm has the same colour in all of them.
    legend = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(legend.values(), legend, fontsize=7, loc="outside lower center", ncols=6, frameon=False)
    file = io.StringIO()
    with mpl.rc_context(SVG):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
