"""Charts of the page of a run, from its log, its arena and its clues. What they mean: docs/runs.md.

Their words and their curves are in charts.yaml. A chart whose numbers a run does not have says why (`missing`) and is
not drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Literal

from vision_zero.config.game import beside
from vision_zero.report.metrics_log import Figures, Line, chance, finite_number

CHARTS: dict[str, dict[str, Any]] = beside(__file__)
REWARDS_OF_THE_GAME = {"reward/spy", "reward/civilian", "reward/vote"}
LOOKS = ("main", "second", "third", "fourth", "fifth")
Colour = Literal["main", "second", "third", "fourth", "fifth", "spy", "civilian", "quiet"]
Style = Literal["line", "bold", "thin", "points", "smoothed"]
Points = Sequence[tuple[float, Figures]]
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
    """A horizontal line, as chance or a threshold of the stage switch: its number, or the name of one in `_levels`."""

    label: str
    value: float | str
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
    played = _Log(iterations, steps_per_iteration, first=True)
    trained = _Log(steps, steps_per_iteration)
    win_rates = _arena_charts([(step / steps_per_iteration, figures) for step, figures in arena])
    drawn = [
        *win_rates,
        *map(played.chart, ("accuracy", "na")),
        *_clue_charts(list(clues.items())),
        *_game_charts(played),
        *_training_charts(trained),
        *_work_charts(played),
    ]
    levels = _levels(config)
    valued = [[replace(one, value=levels.get(one.value, one.value)) for one in chart.limits] for chart in drawn]
    known = [[one for one in limits if isinstance(one.value, float)] for limits in valued]
    return [replace(chart, limits=limits) for chart, limits in zip(drawn, known, strict=True)]


class _Log:
    """Lines of metrics.jsonl as columns over iterations."""

    def __init__(self, lines: Sequence[Line], steps_per_iteration: int, *, first: bool = False) -> None:
        self.lines = lines
        # The numbers of an iteration's games stand on the line of its first step.
        back = steps_per_iteration - 1 if first else 0
        self.x = [(line["step"] + back) / steps_per_iteration for line in lines]

    def column(self, name: str) -> list[float | None]:
        return [finite_number(line.get(name)) for line in self.lines]

    def chart(self, id: str, **more: Any) -> Chart:
        """The chart of this id; a column that is nowhere logged is left out."""
        reason = "not logged" if self.lines else "no iteration is finished yet"
        return _chart(id, self.x, lambda name, label, *look: Curve(label, self.column(name), *look), reason, **more)


def _chart(id: str, x: list[float], curve: Callable[..., Curve], reason: str, **more: Any) -> Chart:
    """The chart of this id in charts.yaml, with its fields in `more` replaced; `curve` makes a curve of a line there.

    Curves that have no point are left out; `missing` is the reason if none is left.
    """
    fields = {**CHARTS[id], **more}
    drawn = [one for one in (curve(*line) for line in fields["curves"]) if any(y is not None for y in one.values)]
    limits = [Limit(*line) for line in fields.get("limits", ())]
    return Chart(
        **{**fields, "id": id, "x": x, "curves": drawn, "limits": limits, "missing": None if drawn else reason}
    )


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


def _interval_chart(id: str, at: Points, reason: str, bands: Sequence[Style], **more: Any) -> Chart:
    """The chart of this id, of figures at iterations; curves of the styles `bands` have their intervals."""

    def curve(name: str, label: str, colour: Colour, style: Style = "line") -> Curve:
        points = [figures.get(name) or (None,) * 3 for _, figures in at]
        value, low, high = ([finite_number(point[k]) for point in points] for k in (0, 1, 2))
        return Curve(label, value, colour, style, *((low, high) if style in bands else ()))

    return _chart(id, [float(iteration) for iteration, _ in at], curve, reason, **more)


def _arena_charts(arena: Points) -> list[Chart]:
    if not arena:  # one sentence says so, not three
        return [_interval_chart("win-rate", arena, NO_ARENA, (), title="Win rate and cross-play")]
    ids = ("win-rate", "cross-play", "image_gain")
    return [_interval_chart(id, arena, "not in arena.jsonl", ["bold"]) for id in ids]


def _clue_charts(clues: Points) -> list[Chart]:
    described = "no picture of the recorded games is described, so that clues cannot be judged"
    reasons = {"true": described, "discriminative": described, "copied": "no parsed clue"}
    return [
        _interval_chart(id, clues, reason if clues else "no recorded games", ["line"]) for id, reason in reasons.items()
    ]


def _game_charts(log: _Log) -> list[Chart]:
    extra = sorted({name for line in log.lines for name in line if name.startswith("reward/")} - REWARDS_OF_THE_GAME)
    curves = [(name, name.removeprefix("reward/"), look) for name, look in zip(extra, cycle(LOOKS), strict=False)]
    ids = ("rewards", "advantages", "baselines", "vote-reward", "votes", "unparsed", "lengths")
    return [*([log.chart("extra-rewards", curves=curves)] if extra else []), *map(log.chart, ids)]


def _training_charts(log: _Log) -> list[Chart]:
    gap = CHARTS["gap"]["curves"]
    if all(value is None for value in log.column("sampling/logp_gap/mean")):  # an older run with vLLM
        gap = [(name.replace("logp_gap", "sampling_logp_difference"), *look) for name, *look in gap]
    return [*map(log.chart, ("kl", "entropy", "gradient", "loss", "rate")), log.chart("gap", curves=gap)]


def _work_charts(played: _Log) -> list[Chart]:
    """Charts of time and tokens. The parts of an iteration add up to `step_time`; the arena comes on top."""
    names = ("seconds/rollout", "seconds/play_and_score", "step_time", "seconds/arena")
    play, score, whole, arena = (played.column(name) for name in names)

    def beyond(longer: list[float | None], shorter: list[float | None]) -> list[float | None]:
        pairs = zip(longer, shorter, strict=True)
        return [None if a is None or b is None else max(0.0, a - b) for a, b in pairs]

    parts = {"playing": play, "scoring": beyond(score, play), "update": beyond(whole, score), "seconds/arena": arena}
    time = _chart("time", played.x, lambda name, label, *look: Curve(label, parts[name], *look), "not logged")
    return [time, played.chart("tokens")]
