"""Charts of the page of a run, from its log, its arena and its clues. What they mean: docs/runs.md.

A chart whose numbers a run does not have says why (`missing`) and is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any, Literal

from vision_zero.report.metrics_log import Figures, Line, finite_number

REWARDS_OF_THE_GAME = {"reward/spy", "reward/civilian", "reward/vote"}
LOOKS = ("main", "second", "third", "fourth", "fifth")
Colour = Literal["main", "second", "third", "fourth", "fifth", "spy", "civilian", "quiet"]
Style = Literal["line", "bold", "thin", "points"]
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
    """A horizontal line, such as a threshold of the stage switch."""

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
    limits: list[Limit] = field(default_factory=list)
    share: bool = False
    switches: bool = False
    missing: str | None = None


@dataclass(frozen=True)
class RoleShares:
    """Means over the recorded games of one iteration, by names such as `civilian/true`: (value, low, high)."""

    iteration: int
    figures: Mapping[str, tuple[float, float | None, float | None]]


def build_charts(
    iterations: Sequence[Line],
    steps: Sequence[Line],
    arena: Sequence[tuple[int, Figures]],
    clues: Sequence[RoleShares],
    config: Mapping[str, Any],
    steps_per_iteration: int,
) -> list[Chart]:
    """All charts in the order of the page. `steps`: every line of metrics.jsonl, `iterations` those with games."""
    played = _Log(iterations, steps_per_iteration, first=True)
    trained = _Log(steps, steps_per_iteration)
    win_rates = _arena_charts([(step / steps_per_iteration, figures) for step, figures in arena])
    return [
        *(win_rates if arena else []),
        *_switch_charts(played, config),
        *(win_rates if not arena else []),
        *_clue_charts(clues),
        *_game_charts(played),
        *_training_charts(trained),
        *_work_charts(played),
    ]


class _Log:
    """Lines of metrics.jsonl as columns over iterations."""

    def __init__(self, lines: Sequence[Line], steps_per_iteration: int, *, first: bool = False) -> None:
        self.lines = lines
        # The numbers of an iteration's games stand on the line of its first step.
        back = steps_per_iteration - 1 if first else 0
        self.x = [(line["step"] + back) / steps_per_iteration for line in lines]

    def column(self, name: str) -> list[float | None]:
        return [finite_number(line.get(name)) for line in self.lines]

    def chart(self, id: str, title: str, about: str, *curves: tuple[Any, ...], **more: Any) -> Chart:
        """A chart of columns, each (name, label, colour[, style]); a column that is nowhere logged is left out."""
        drawn = [Curve(label, self.column(name), *look) for name, label, *look in curves]
        reason = "not logged" if self.lines else "no iteration is finished yet"
        return without_empty_curves(Chart(id, title, about, self.x, drawn, **more), reason)


def without_empty_curves(chart: Chart, reason: str) -> Chart:
    """The chart without curves that have no point; `missing` is set if none is left."""
    curves = [curve for curve in chart.curves if any(value is not None for value in curve.values)]
    return replace(chart, curves=curves, missing=None if curves else chart.missing or reason)


def _interval_curve(
    points: Sequence[Any], label: str, colour: Colour, style: Style = "line", *, band: bool = True
) -> Curve:
    """A curve of (value, low, high), None where there is none; `band`: with its interval."""
    value, low, high = ([None if point is None else finite_number(point[k]) for point in points] for k in (0, 1, 2))
    return Curve(label, value, colour, style, low if band else None, high if band else None)


def _switch_charts(log: _Log, config: Mapping[str, Any]) -> list[Chart]:
    accuracy_limits: list[Limit] = []
    na_limits: list[Limit] = []
    limits = [finite_number(config.get(name)) for name in ("acc_up", "err_up", "na_down", "na_up")]
    known = [limit for limit in limits if limit is not None]
    if config.get("schedule") == "iterative" and len(known) == len(limits):
        up, error, down, na_up = known
        accuracy_limits = [
            Limit("decision → clue from", up, "second"),
            Limit("clue → decision down to", 1 - error, "spy"),
        ]
        na_limits = [Limit("decision → clue down to", down, "second"), Limit("clue → decision from", na_up, "spy")]
    average = "; the switch compares the average with its thresholds" if accuracy_limits else ""
    return [
        log.chart(
            "accuracy", "The spy is found", f"Share of games whose plurality vote is the spy{average}.",
            ("stage/accuracy", "this iteration", "quiet", "thin"),
            ("stage/accuracy_average", "average", "main", "bold"),
            limits=accuracy_limits, share=True, switches=True,
        ),
        log.chart(
            "na", "Votes for N/A", "Share of votes that name nobody. Near 1 the voter has given up.",
            ("stage/na_rate", "this iteration", "quiet", "thin"), ("stage/na_average", "average", "main", "bold"),
            limits=na_limits, share=True, switches=True,
        ),
    ]  # fmt: skip


def _arena_charts(arena: Sequence[tuple[float, Figures]]) -> list[Chart]:
    x = [at for at, _ in arena]

    def curve(name: str, label: str, colour: Colour, *, band: bool = False) -> Curve:
        points = [figures.get(name) for _, figures in arena]
        return _interval_curve(points, label, colour, "bold" if band else "line", band=band)

    def chart(id: str, title: str, about: str, *curves: Curve, **more: Any) -> Chart:
        reason = "not in arena.jsonl" if arena else NO_ARENA
        return without_empty_curves(Chart(id, title, about, x, list(curves), **more), reason)

    charts = [
        chart(
            "win-rate", "Win rate against the start",
            "On image pairs that are not trained on; ½ is the start model itself. Shaded: 95% interval.",
            curve("win_rate", "win rate", "main", band=True),
            curve("as_table", "as the table", "civilian"), curve("as_spy", "as the spy", "spy"),
            limits=[Limit("the start", 0.5)], share=True,
        ),
        chart(
            "cross-play", "Cross-play: who gained what",
            "New players in some roles, the start model in the others. Together: what they gain only with each other.",
            curve("table_gain", "table", "main", band=True), curve("spy_gain", "spy", "spy"),
            curve("civilians_gain", "civilians alone", "civilian"), curve("voters_gain", "voters alone", "third"),
            curve("together", "together", "quiet"),
            limits=[Limit("the start", 0.0)],
        ),
        chart(
            "image_gain", "Image gain of the voters",
            "Right votes of the model with itself. Image gain: the share with the true image minus the share with "
            "another game's image, same clues and seeds.",
            curve("votes/right", "with the true image", "main", band=True),
            curve("votes/right_image_swapped", "with another image", "quiet"),
            curve("against_itself", "games, by plurality", "third"), share=True,
        ),
    ]  # fmt: skip
    # Without an arena one sentence says so, not three.
    return charts if arena else [replace(charts[0], title="Win rate and cross-play")]


def _clue_charts(clues: Sequence[RoleShares]) -> list[Chart]:
    def chart(name: str, title: str, about: str, reason: str) -> Chart:
        civilians, spy = ([one.figures.get(f"{role}/{name}") for one in clues] for role in ("civilian", "spy"))
        curves = [_interval_curve(civilians, "civilians", "civilian"), _interval_curve(spy, "the spy", "spy")]
        drawn = Chart(name, title, about, [float(one.iteration) for one in clues], curves, share=True)
        return without_empty_curves(drawn, reason if clues else "no recorded games")

    described = "no picture of the recorded games is described, so that clues cannot be judged"
    return [
        chart(
            "true", "Clues that are true", "Share of clues whose objects are all in the civilians' image.", described
        ),
        chart(
            "discriminative", "Discriminative clues",
            "Share of the other pictures of the set of which a true clue is not true.", described,
        ),
        chart("copied", "Clues that copy", "Share of clues that somebody said before in the game.", "no parsed clue"),
    ]  # fmt: skip


def _game_charts(log: _Log) -> list[Chart]:
    def of_roles(name: str, id: str, title: str, about: str) -> Chart:
        civilians, spy = (f"{name}/civilian", "civilians", "civilian"), (f"{name}/spy", "the spy", "spy")
        return log.chart(id, title, about, civilians, spy, limits=[Limit("", 0.0)])

    extra = sorted({name for line in log.lines for name in line if name.startswith("reward/")} - REWARDS_OF_THE_GAME)
    curves = [(name, name.removeprefix("reward/"), look) for name, look in zip(extra, cycle(LOOKS), strict=False)]
    about = "Means without their weights, of the rewards that the run weighs beside the game's."
    return [
        *([log.chart("extra-rewards", "Rewards of single completions", about, *curves)] if extra else []),
        of_roles(
            "reward", "rewards", "Rewards of clues",
            "Mean per role. Zero-sum: the civilians' is the spy's, shared out and with the other sign.",
        ),
        of_roles(
            "advantage", "advantages", "Advantages of clues",
            "Reward minus the role's baseline. A lasting offset pushes all words of a role one way.",
        ),
        of_roles(
            "baseline", "baselines", "Role baselines",
            "What a role earns on average (RAE); moves in clue stages unless rae_stages says otherwise.",
        ),
        log.chart(
            "vote-reward", "Reward of votes",
            "+1 for the spy, −1 for another player or an unparsed vote, na_reward for N/A.",
            ("reward/vote", "votes", "main"), limits=[Limit("", 0.0)],
        ),
        log.chart(
            "votes", "Votes", "Games whose votes all earned the same give decision stages no gradient.",
            ("votes/right", "right", "main"), ("votes/zero_variance_games", "games without a gradient", "quiet"),
            share=True,
        ),
        log.chart(
            "unparsed", "Unparsed and cut completions",
            "Nothing can be learnt from completions that cannot be read. Should stay below 0.05.",
            ("clues/unparsed", "unparsed clues", "spy"), ("votes/invalid", "unparsed votes", "third"),
            ("length/clue_cut", "clues cut", "quiet"), ("length/vote_cut", "votes cut", "fourth"),
        ),
        log.chart(
            "lengths", "Completion lengths",
            "Mean tokens of a completion, thinking included; the bands say which stage trained.",
            ("length/clue", "clues", "second"), ("length/vote", "votes", "main"),
        ),
    ]  # fmt: skip


def _training_charts(log: _Log) -> list[Chart]:
    gap = "sampling/logp_gap/"
    if all(value is None for value in log.column(gap + "mean")):  # an older run with vLLM
        gap = "sampling/sampling_logp_difference/"
    return [
        log.chart("kl", "KL to the start model", "Should grow slowly. A jump: a smaller learning rate.",
                  ("kl", "KL", "main")),
        log.chart("entropy", "Entropy", "In nats per token. Near 0 nothing is tried any more.",
                  ("entropy", "entropy", "main")),
        log.chart("gradient", "Gradient norm", "Before clipping. 0: no game had a gradient.",
                  ("grad_norm", "gradient norm", "main")),
        log.chart("loss", "Loss", "Its size says little; a jump or a gap is a fault.", ("loss", "loss", "main")),
        log.chart("rate", "Learning rate", "With warm-up and schedule.", ("learning_rate", "learning rate", "main")),
        log.chart("gap", "Log-prob gap",
                  "How far who plays is from the model that trains, per token. It should not grow.",
                  (gap + "mean", "mean", "main"), (gap + "max", "largest", "quiet")),
    ]  # fmt: skip


def _work_charts(played: _Log) -> list[Chart]:
    """Charts of time and tokens. The parts of an iteration add up to `step_time`; the arena comes on top."""
    play, score, whole, arena = (
        played.column(name) for name in ("seconds/rollout", "seconds/play_and_score", "step_time", "seconds/arena")
    )

    def beyond(longer: list[float | None], shorter: list[float | None]) -> list[float | None]:
        pairs = zip(longer, shorter, strict=True)
        return [None if a is None or b is None else max(0.0, a - b) for a, b in pairs]

    parts = [
        Curve("playing", play, "main"),
        Curve("scoring and log-probs", beyond(score, play), "third"),
        Curve("update", beyond(whole, score), "second"),
        Curve("arena", arena, "quiet", "points"),
    ]
    time = Chart("time", "Time per iteration", "Seconds of its parts, on the main process.", played.x, parts)
    tokens = played.chart(
        "tokens", "Tokens of a rollout",
        "New ones are sampled; of the prompts, some are computed and some are in the cache.",
        ("rollout/tokens/new", "new", "main"), ("rollout/tokens/prefilled", "prompt, computed", "second"),
        ("rollout/tokens/reused", "prompt, cached", "quiet"),
    )  # fmt: skip
    return [without_empty_curves(time, "not logged"), tokens]
