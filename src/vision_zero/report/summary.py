"""Summary of a run in one screen: `python -m vision_zero.report RUN --summary`.

Reads the records and config.yaml of a run folder, finished or not; nothing is loaded or trained.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vision_zero import run_folder
from vision_zero.config.game import beside
from vision_zero.report.metrics_log import HEADLINE, read_arena, win_rate

WINDOW = 5
"""At most this many iterations at the beginning and at the end of a stage are averaged; fewer in a short stage."""

ROWS: list[tuple[str, str, int]] = beside(__file__)

Metrics = Mapping[str, Any]


def summarize_run(run: Path) -> str:
    """The summary of a run folder as text. Raises RunFolderError."""
    config = run_folder.read_config(run, iterations=int)
    # With several updates per iteration, the lines in between hold no games.
    iterations = [line for line in run_folder.read_json_lines(run / run_folder.METRICS) if "stage/is_clue" in line]
    by_stage = {
        stage: [line for line in iterations if (line["stage/is_clue"] > 0.5) == (stage == "clue")]
        for stage in ("decision", "clue")
    }
    arena, steps = read_arena(run, []), run_folder.steps_per_iteration(config)
    first = [f"win rate    {win_rate(step, figures, steps)}" for step, figures in arena[-1:]]
    if len(arena) > 1:
        (_, before), *_, (_, after) = arena
        known = [name for name in HEADLINE if name in before and name in after]
        first += [f"{'':<12}{HEADLINE[name]} {before[name][0]:.3f} -> {after[name][0]:.3f}" for name in known]
    parts = [
        "\n".join(first),
        progress(run, config["iterations"], by_stage),
        stage_means({stage: lines for stage, lines in by_stage.items() if lines}),
        file_locations(run),
    ]
    return "\n\n".join(part for part in parts if part)


def progress(run: Path, planned: int, by_stage: Mapping[str, Sequence[Metrics]]) -> str:
    """Progress of the run: iterations, time, the arena's share of it, and every switch of stage with its reason."""
    done = sum(map(len, by_stage.values()))
    seconds = sum(line.get("step_time", 0.0) for lines in by_stage.values() for line in lines)
    arena = sum(line["seconds"] for line in run_folder.read_json_lines(run / run_folder.ARENA) if line.get("seconds"))
    of_arena = f", and {arena:.0f} s of arena ({arena / (arena + seconds):.0%} of both)" if arena else ""
    stages = ", ".join(f"{len(lines)} {stage}" for stage, lines in by_stage.items())
    switches = [
        f"after iteration {line['iteration']}: {line['from_stage']} -> {line['to_stage']} ({line['reason']})"
        for line in run_folder.read_json_lines(
            run / run_folder.SWITCHES, "iteration", "from_stage", "to_stage", "reason"
        )
    ]
    lines = [
        f"run         {run}",
        f"iterations  {done} of {planned} ({stages}) in {int(seconds // 60)} min {int(seconds % 60)} s{of_arena}",
        *(f"{'stages' if not number else '':<11} {switch}" for number, switch in enumerate(switches)),
    ]
    return "\n".join(lines)


def stage_means(by_stage: Mapping[str, Sequence[Metrics]]) -> str:
    """Means over the first and the last iterations of each stage; empty before the first iteration."""
    columns = []
    for stage, lines in by_stage.items():
        n = min(WINDOW, max(1, len(lines) // 2))
        columns += [(stage, f"first {n}", lines[:n]), ("", f"last {n}", lines[-n:])]
    if not columns:
        return ""
    text = [
        " " * 34 + "".join(f"{stage:>11}" for stage, _, _ in columns),
        " " * 34 + "".join(f"{window:>11}" for _, window, _ in columns),
    ]
    for words, name, decimals in ROWS:
        values = [[line[name] for line in lines if name in line] for _, _, lines in columns]
        text.append(f"{words:<34}" + "".join(f"{fmean(v):>11.{decimals}f}" if v else f"{'-':>11}" for v in values))
    return "\n".join(text)


def file_locations(run: Path) -> str:
    """Paths of the run's files, and the lines that load its last export."""
    lines = [
        f"every number  {run / run_folder.METRICS}  (docs/runs.md says what they mean)",
        f"every game    {run / run_folder.GAMES}/  (a page with all: python -m vision_zero.report {run})",
    ]
    exports = [path / run_folder.EXPORT for path in run_folder.complete_checkpoints(run)]
    exports = [path for path in exports if path.is_dir()]
    if not exports:
        return "\n".join([*lines, "the model     not exported yet; the last checkpoint of a run is"])
    lines += [
        f"the model     {exports[-1]}",
        "",
        "    from transformers import AutoModelForImageTextToText, AutoProcessor",
        f'    model = AutoModelForImageTextToText.from_pretrained("{exports[-1]}")',
        f'    processor = AutoProcessor.from_pretrained("{exports[-1]}")',
    ]
    return "\n".join(lines)
