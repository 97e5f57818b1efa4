"""The page of a run: one HTML file that holds everything it shows, for `python -m vision_zero.report`.

Curves come from `charts`, games from `games`, markup, style and scripts from the files in static/. The file makes no
request: its policy lets it run the scripts and the style it was written with (by their hashes) and show the images it
holds, nothing else. Texts of models are data to its scripts and are shown as text.
"""

import base64
import hashlib
import html
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from tqdm import tqdm

from vision_zero import run_folder
from vision_zero.config.game import beside
from vision_zero.data.pairs import PairSourceError
from vision_zero.report import metrics_log
from vision_zero.report.charts import build_charts
from vision_zero.report.games import Pictures, choose_games, game_for_page, judge_clues, picture_games, read_games
from vision_zero.rollout.record import pairs_of
from vision_zero.types import ImagePair

PARTS: dict[str, Any] = beside(__file__)
EVALUATIONS = "evaluation*.jsonl"
"""Files in a run folder that `python -m vision_zero.evaluate win-rate --out` wrote."""


@dataclass(frozen=True)
class Report:
    """A page, and how much it shows."""

    html: str
    n_charts: int
    n_games: int
    n_recorded: int
    n_images: int
    notes: list[str]


def make_report(
    run: Path,
    max_games: int = 500,
    image_size: int = 320,
    evaluations: Sequence[Path] = (),
    against: Path | None = None,
) -> Report:
    """The page of a run folder, finished or not. What is not there or cannot be read is named on the page.

    `evaluations` are JSONL files of win rates; none: those in the run folder. `against` is a run whose curves are drawn
    into the same charts. Raises RunFolderError for a folder that is no run, or twice the same one.
    """
    if against is not None and against.resolve() == run.resolve():
        raise run_folder.RunFolderError(f"--against {against}: is the run itself; give another")
    pictures = Pictures(image_size)
    data = _page_data(run, max_games, pictures, evaluations)
    data["against"] = None if against is None else _page_data(against, 0, pictures, ())
    notes = [*data["notes"], *(f"{against}: {note}" for note in (data["against"] or {}).get("notes", ()))]
    n_drawn = sum(chart["missing"] is None for chart in data["charts"])
    counts = n_drawn, len(data["games"]), data["recorded"], len(pictures.uris)
    return Report(page_html(data, pictures.uris), *counts, notes)


def _page_data(run: Path, max_games: int, pictures: Pictures, evaluations: Sequence[Path]) -> dict[str, Any]:
    """What the page's scripts take of a run, with at most `max_games` games, whose images are added to `pictures`."""
    config = run_folder.read_config(run, iterations=int, updates_per_iteration=int, num_iterations=int)
    steps_per_iteration = run_folder.steps_per_iteration(config)
    notes: list[str] = []
    metrics = run / run_folder.METRICS
    steps = _read_or_note(notes, metrics, lambda: metrics_log.read_steps(metrics))
    iterations = _read_or_note(notes, metrics, lambda: metrics_log.read_iterations(run)) if steps else []
    steps, iterations = _one_line_per_step(steps, notes), _one_line_per_step(iterations, [])
    arena = _read_or_note(notes, run / run_folder.ARENA, lambda: metrics_log.read_arena(run, notes), optional=True)
    switches = _read_or_note(notes, run / run_folder.SWITCHES, lambda: _switches(run), optional=True)
    for change in run_folder.read_json_lines(run / run_folder.CHANGES, "step", "options"):
        named = ", ".join(f"{name}={now} (was {then})" for name, (then, now) in change["options"].items())
        notes.append(f"from step {change['step']} on: {named}")
    recorded = read_games(run, notes)
    pairs = readable_pairs(config, {game["pair"] for game in recorded}, notes)
    judged = judge_clues(recorded, pairs, lambda game: _iteration(game, steps_per_iteration))
    shown = choose_games(recorded, max_games)
    prompts: dict[tuple[str, ...], int] = {}
    lines: dict[str, int] = {}
    games: list[dict[str, Any]] = [{} for _ in shown]
    pictured = picture_games([recorded[number] for number in shown], pairs, pictures)
    bar = {"desc": "games of the page", "unit": "game", "disable": None, "leave": False}
    for place, seen in tqdm(pictured, total=len(shown), **bar):
        number, game = shown[place], recorded[shown[place]]
        games[place] = game_for_page(game, _iteration(game, steps_per_iteration), seen, judged.marks[number], prompts)
    if without := [game["no_image"] for game in games if game["no_image"] is not None]:
        notes.append(f"images of {len(without)} games cannot be opened any more: {without[0]}")
    drawn = build_charts(iterations, steps, arena, judged.shares, config, steps_per_iteration)
    return {
        "run": run.resolve().name,
        "path": str(run.resolve()),
        "options": {name: str(value) for name, value in config.items() if name not in run_folder.OF_THE_COMMAND},
        "facts": run_facts(run, config, iterations),
        "arena": [{"iteration": step // steps_per_iteration, "figures": figures} for step, figures in arena],
        "headline": metrics_log.HEADLINE,
        "chance": metrics_log.chance(config),
        "notes": notes,
        "iterations": len(iterations),
        "stages": [asdict(span) for span in metrics_log.stage_spans(iterations)],
        "switches": switches,
        "charts": [asdict(chart) for chart in drawn],
        "evaluations": _evaluations(run, evaluations, notes),
        "recorded": len(recorded),
        "image_size": pictures.longest,
        "games": games,
        "prompts": [[lines.setdefault(line, len(lines)) for line in prompt] for prompt in prompts],
        "lines": list(lines),
    }


def _iteration(game: Mapping[str, Any], steps_per_iteration: int) -> int:
    """The iteration of a game, counted from 1 as in the log: its `step` is the optimizer steps done before it."""
    return int(game["step"]) // steps_per_iteration + 1


def _read_or_note(notes: list[str], file: Path, read: Any, *, optional: bool = False) -> list[Any]:
    """The result of `read`; nothing, and a note, for a file that is damaged or (unless optional) not there."""
    if not file.is_file():
        if not optional:
            notes.append(f"{file.name} is not there: the run has not finished an iteration")
        return []
    try:
        found: list[Any] = read()
    except (run_folder.RunFolderError, OSError) as error:
        notes.append(f"left out: {error}")
        return []
    if not file.read_bytes().endswith(b"\n") and file.stat().st_size:
        notes.append(f"{file.name} ends inside a line, which is left out: the run was killed or is writing just now")
    return found


def _switches(run: Path) -> list[dict[str, Any]]:
    """The shown fields of every switch of stage. Raises RunFolderError for a damaged file."""
    file = run / run_folder.SWITCHES
    numbers = ("iteration", "accuracy_average", "na_average", "dwell")
    needed = (*numbers, "from_stage", "to_stage", "reason")
    lines = run_folder.read_json_lines(file, *needed)
    for number, line in enumerate(lines, start=1):
        metrics_log.check_numbers(f"{file}, line {number}", [line[name] for name in numbers])
    return [{name: line[name] for name in needed} for line in lines]


def _one_line_per_step(lines: Sequence[metrics_log.Line], notes: list[str]) -> list[metrics_log.Line]:
    """Lines in the order of their steps; of those with the same step, the last."""
    by_step = {line["step"]: line for line in lines}
    if len(by_step) < len(lines):
        notes.append(
            f"{run_folder.METRICS} has {len(lines) - len(by_step)} steps twice: the last line of each is shown"
        )
    return [by_step[step] for step in sorted(by_step)]


def readable_pairs(config: Mapping[str, Any], names: set[str], notes: list[str]) -> dict[str, ImagePair]:
    """Pairs of the recorded games by id. Without their source, images are looked for by their file names."""
    if not names:
        return {}
    try:
        return pairs_of(config, names)
    except (PairSourceError, OSError, ValueError, TypeError, AttributeError) as error:  # options of other types too
        notes.append(f"the run's image source cannot be read here, so clues are not judged: {error}")
        return {}


def _evaluations(run: Path, named: Sequence[Path], notes: list[str]) -> list[dict[str, Any]]:
    """Lines of evaluation files: model, games, figures and those of the start model."""
    found = []
    for file in named or sorted(run.glob(EVALUATIONS)):
        try:
            lines = run_folder.read_json_lines(file, "model", "figures", "start", "games")
            for number, line in enumerate(lines, start=1):
                metrics_log.checked_figures(f"{file}, line {number}", line["figures"])
                metrics_log.checked_figures(f"{file}, line {number}", line["start"])
        except (run_folder.RunFolderError, OSError) as error:
            notes.append(f"left out: {error}")
            continue
        if not lines:
            notes.append(f"{file} holds no evaluation")
        metrics_log.note_older_intervals(file, lines, notes)
        found += [{name: line[name] for name in ("model", "figures", "start", "games")} for line in lines]
    return found


def run_facts(run: Path, config: Mapping[str, Any], iterations: Sequence[metrics_log.Line]) -> list[tuple[str, str]]:
    """Description of the run, as (name, value), for the head of the page. Its words are in page.yaml."""
    planned, images = config["iterations"], config.get("images") or ["not said"]
    done = f"{len(iterations)} of {planned}"
    if len(iterations) > planned:  # the options are those it was started with
        done = f"{len(iterations)}, resumed beyond the {planned} planned first,"
    values = defaultdict[str, Any](lambda: None, config) | {
        "images": ", ".join(map(str, images if isinstance(images, list) else [images])),
        "done": done,
        "duration": _duration([metrics_log.finite_number(line.get("step_time")) for line in iterations]),
        "folder": run,
    }
    return [(name, words.format_map(values)) for name, words in PARTS["facts"].items()]


def _duration(seconds: Sequence[float | None]) -> str:
    """Time of all iterations together, in words; those whose time is not known are counted."""
    known = [one for one in seconds if one is not None]
    total = metrics_log.finite_number(sum(known)) or 0.0
    hours, rest = divmod(int(total), 3600)
    minutes, left = divmod(rest, 60)
    unknown = f" and {len(seconds) - len(known)} of unknown time" if len(known) < len(seconds) else ""
    return (f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s") + unknown


def page_html(data: Mapping[str, Any], images: Sequence[str]) -> str:
    """The HTML file. `data` is JSON for its scripts; `images` are data URIs, by number."""
    script = "\n".join(f"/* {name} */\n{_static_file(name)}" for name in PARTS["scripts"])
    style = "\n".join(_static_file(name) for name in PARTS["styles"])
    return Template(_static_file("page.html")).substitute(
        script_sha256=_sha256(script),
        style_sha256=_sha256(style),
        title=html.escape(f"{data['run']}: a run of Vision-Zero"),
        name=html.escape(str(data["run"])),
        style=style,
        data=json_in_html(data),
        images=json_in_html(list(images), by_line=True),
        script=script,
    )


def json_in_html(value: Any, *, by_line: bool = False) -> str:
    """JSON that stays inside its script element whatever it holds: no "<", so no tag or comment begins in it."""
    separators = (",\n" if by_line else ",", ":")
    text = json.dumps(_json_value(value), ensure_ascii=False, allow_nan=False, separators=separators)
    # A lone surrogate, which JSON can hold, is nothing that a file can.
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _json_value(value: Any) -> Any:
    """The value with None for infinities and NaN, which are no JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _json_value(one) for name, one in value.items()}
    return [_json_value(one) for one in value] if isinstance(value, (list, tuple)) else value


def _static_file(name: str) -> str:
    return files("vision_zero.report").joinpath("static", *name.split("/")).read_text("utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
