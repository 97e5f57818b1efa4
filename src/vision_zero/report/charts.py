"""Charts of the page of a run, from its log, its arena and its clues. What they mean: docs/runs.md.

Their words, their curves and their order are in charts.yaml. A chart whose numbers a run does not have says why
(`missing`) and is not drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

from vision_zero.config.game import beside
from vision_zero.report.metrics_log import Figures, Line, chance, finite_number

CHARTS: dict[str, dict[str, Any]] = beside(__file__)
REWARDS_OF_THE_GAME = {"reward/spy", "reward/civilian", "reward/vote"}
LOOKS = ("main", "second", "third", "fourth", "fifth")
Colour = Literal["main", "second", "third", "fourth", "fifth", "spy", "civilian", "quiet"]
Style = Literal["line", "bold", "thin", "points", "smoothed"]
NO_ARENA = "nothing was measured while training (no arena.jsonl); --arena_every plays games against the start model"


@dataclass(frozen=True)
class Curve:
    """A curve of a chart. `values`: one per x, None where there is none. `low`, `high`: their 95% intervals."""

    label: str
    values: list[float | None]
    colour: Colour
    style: Style = "line"
    low: list[float | None] | None = None
    high: list[float | None] | None = None


@dataclass(frozen=True)
class Limit:
    """A horizontal line, as chance or a threshold of the stage switch."""

    label: str
    value: float
    colour: Colour = "quiet"


@dataclass(frozen=True)
class Chart:
    """A chart over iterations `x`, counted from 1; 0 is before the first. `share`: the axis goes from 0 to 1.

    `switches`: whether switches of stage are drawn, with their reasons.
    """

    id: str
    title: str
    about: str
    x: list[float]
    curves: list[Curve]
    limits: list[Limit]
    share: bool = False
    switches: bool = False
    missing: str | None = None


@dataclass(frozen=True)
class _Source:
    """Numbers over iterations `x`, by name: one list of values, or three with the ends of their intervals.

    `empty` says why there are no numbers at all. Curves of the style `band` have intervals.
    """

    x: list[float]
    columns: Callable[[str], Sequence[list[float | None]]]
    empty: str
    band: Style | None = None


def build_charts(
    iterations: Sequence[Line],
    steps: Sequence[Line],
    arena: Sequence[tuple[int, Figures]],
    clues: Mapping[int, Figures],
    config: Mapping[str, Any],
    steps_per_iteration: int,
) -> list[Chart]:
    """All charts in the order of the page. `steps`: every line of metrics.jsonl, `iterations` those with games.

    `clues`: means over the recorded games of an iteration, by names such as `civilian/true`.
    """
    # The numbers of an iteration's games stand on the line of its first step.
    played = _of_lines(iterations, steps_per_iteration, back=steps_per_iteration - 1)
    trained = _of_lines(steps, steps_per_iteration)
    measured = [(step / steps_per_iteration, figures) for step, figures in arena]
    sources = {
        "games": played,
        "steps": trained,
        "arena": _of_figures(measured, NO_ARENA, "bold"),
        "clues": _of_figures(list(clues.items()), "no recorded games", "line"),
        "seconds": _Source(played.x, _seconds(played), "not logged"),
    }
    charts = {id: dict(fields) for id, fields in CHARTS.items()}
    extra = sorted({name for line in iterations for name in line if name.startswith("reward/")} - REWARDS_OF_THE_GAME)
    looks = zip(extra, cycle(LOOKS), strict=False)
    charts["extra-rewards"]["curves"] = [(name, name.removeprefix("reward/"), look) for name, look in looks]
    if all(value is None for value in trained.columns("sampling/logp_gap/mean")[0]):  # an older run with vLLM
        gap = charts["gap"]["curves"]
        charts["gap"]["curves"] = [(name.replace("logp_gap", "sampling_logp_difference"), *look) for name, *look in gap]
    if not extra:
        del charts["extra-rewards"]
    if not arena:  # one sentence says so, not three
        charts["win-rate"]["title"] = "Win rate and cross-play"
        del charts["cross-play"], charts["image_gain"]
    levels = _levels(config)
    return [_chart(id, fields, sources[fields.get("of", "games")], levels) for id, fields in charts.items()]


def _chart(id: str, fields: Mapping[str, Any], source: _Source, levels: Mapping[Any, float]) -> Chart:
    """A chart of charts.yaml. Curves without a point are left out, and limits that `levels` does not have."""
    curves = []
    for name, label, colour, *style in fields["curves"]:
        values, *interval = source.columns(name)
        shaded = (style or ["line"])[0] == source.band
        if any(value is not None for value in values):
            curves.append(Curve(label, values, colour, *style or ["line"], *interval if shaded else ()))
    limits = [Limit(label, levels.get(value, value), *colour) for label, value, *colour in fields.get("limits", ())]
    known = [limit for limit in limits if isinstance(limit.value, float)]
    missing = None if curves else fields.get("missing", "not logged") if source.x else source.empty
    words = {name: fields[name] for name in ("title", "about", "share", "switches") if name in fields}
    return Chart(id=id, x=source.x, curves=curves, limits=known, missing=missing, **words)


def _of_lines(lines: Sequence[Line], steps_per_iteration: int, back: int = 0) -> _Source:
    def columns(name: str) -> Sequence[list[float | None]]:
        return ([finite_number(line.get(name)) for line in lines],)

    x = [(line["step"] + back) / steps_per_iteration for line in lines]
    return _Source(x, columns, "no iteration is finished yet")


def _of_figures(points: Sequence[tuple[float, Figures]], empty: str, band: Style) -> _Source:
    def columns(name: str) -> Sequence[list[float | None]]:
        found = [figures.get(name) or (None,) * 3 for _, figures in points]
        return [[finite_number(figure[k]) for figure in found] for k in (0, 1, 2)]

    return _Source([float(iteration) for iteration, _ in points], columns, empty, band)


def _levels(config: Mapping[str, Any]) -> dict[Any, float]:
    """Values of the limits that charts.yaml names, as far as the run has them: of chance and of the stage switch."""
    switch = ("acc_up", "err_up", "na_down", "na_up") if config.get("schedule") == "iterative" else ()
    found = {name: finite_number(config.get(name)) for name in ("na_reward", *switch)} | {"chance": chance(config)}
    levels = {name: value for name, value in found.items() if value is not None}
    if "err_up" in levels:
        levels["acc_down"] = 1 - levels["err_up"]
    if "chance" in levels:
        levels["chance_reward"] = 2 * levels["chance"] - 1  # +1 for a right vote, -1 for another
    return levels


def _seconds(played: _Source) -> Callable[[str], Sequence[list[float | None]]]:
    """Times of the parts of an iteration, which add up to `step_time`; the arena comes on top."""
    names = ("seconds/rollout", "seconds/play_and_score", "step_time", "seconds/arena")
    play, score, whole, arena = (played.columns(name)[0] for name in names)

    def beyond(longer: list[float | None], shorter: list[float | None]) -> list[float | None]:
        pairs = zip(longer, shorter, strict=True)
        return [None if a is None or b is None else max(0.0, a - b) for a, b in pairs]

    parts = {"playing": play, "scoring": beyond(score, play), "update": beyond(whole, score), "seconds/arena": arena}
    return lambda name: (parts[name],)
