"""`python -m vision_zero.evaluate clues RUN`: shares of clues that are true, discriminative or copied, over training.

Reads the recorded games of a run (games/step-*.jsonl); nothing is loaded or played. A clue is judged against the
pictures of the recorded games.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_zero.config.game import GameConfig
from vision_zero.evaluate.bootstrap import Interval
from vision_zero.evaluate.clues import grounding
from vision_zero.models import run_of
from vision_zero.rollout.record import pairs_of
from vision_zero.run_folder import GAMES, read_config, read_json_lines, steps_per_iteration
from vision_zero.types import Role


@dataclass(frozen=True)
class ClueWindow:
    """Figures of the games of iterations `first` to `last`, named as in `grounding_figures`."""

    first: int
    last: int
    n_games: int
    figures: dict[str, Interval]


def clue_windows(
    run: Path, images: Sequence[str] = (), scenes: str | None = None, window: int = 10
) -> list[ClueWindow]:
    """Windows of `window` iterations, counted from 1, over the recorded games of `run`.

    `images`: the source of the pairs, if not where the run had it. Games whose pairs have no scene description are left
    out and counted. Raises ValueError when no games were recorded, their pairs are not in the source, or none of these
    has a scene description.
    """
    if run_of(str(run)) != run:
        raise ValueError(f"{run} is not a run folder")
    needed = {"updates_per_iteration": int, "num_iterations": int} | ({} if images else {"images": list})
    config = read_config(run, **needed)
    records = _records(run / GAMES)
    if not records:
        raise ValueError(f"{run / GAMES}: no games were recorded (record_games_every)")
    source = {**config, "images": list(images), "scenes_dir": scenes} if images else config
    scene_index = _index_scenes(records, source)
    own = [record for record in records if len(grounding.roles_of_policy(record)) == len(Role)]
    if others := len(records) - len(own):
        print(f"note: {others} of {len(records)} games are left out, a past player gave clues in them", file=sys.stderr)
    judged = [record for record in own if record["pair"] in scene_index]
    if left_out := len(own) - len(judged):
        print(f"note: {left_out} of {len(own)} games are left out, their pairs are not described", file=sys.stderr)
    steps, figures = steps_per_iteration(config), grounding.grounding_figures
    games: dict[int, list[tuple[grounding.GroundingByRole, str]]] = {}
    for record in judged:
        judgement = scene_index.judge(record["pair"], record["spy"], grounding.said_in_record(record))
        games.setdefault(record["step"] // steps // window, []).append((judgement, record["pair"]))
    last = max(record["step"] // steps for record in records) + 1
    return [
        ClueWindow(n * window + 1, min((n + 1) * window, last), len(some), figures(*zip(*some, strict=True)))
        for n, some in sorted(games.items())
    ]


def _records(folder: Path) -> list[dict[str, Any]]:
    """All recorded games. Raises ValueError for one that lacks what is judged."""
    files = sorted(folder.glob("step-*.jsonl"))
    if cut := [file for file in files if not file.read_bytes().endswith(b"\n")]:
        print(f"note: {len(cut)} games are left out, whose files end inside a line: {cut[0]} ...", file=sys.stderr)
    records = []
    for file in files:
        for number, record in enumerate(read_json_lines(file, "step", "pair", "spy", "clues"), start=1):
            try:
                grounding.said_in_record(record)
            except (KeyError, TypeError) as error:
                raise ValueError(f"{file}, line {number}: a clue must have seat, clue and parsed") from error
            records.append(record)
    return records


def _index_scenes(records: Sequence[dict[str, Any]], source: dict[str, Any]) -> grounding.SceneIndex:
    """The described pictures of the games. Raises ValueError when there is none."""
    names, images = {record["pair"] for record in records}, ", ".join(source["images"])
    pairs = pairs_of(source, names)
    if missing := sorted(names - pairs.keys()):
        raise ValueError(f"{images}: not the source of these games, {missing[0]!r} is not there; see --images")
    described = [pair for pair in pairs.values() if grounding.is_described(pair)]
    if not described:
        raise ValueError(
            f"{images}: {next(iter(pairs))!r} has no scene description, and no other pair has, so clues cannot be "
            "judged; drawn scenes and those of make_data clevr are described"
        )
    return grounding.SceneIndex(described)


def windows_table(windows: Sequence[ClueWindow]) -> str:
    """Text with a line per window and role: means over games with their 95% intervals."""
    names = grounding.GROUNDING_FIGURES
    head = f"{'iterations':<11}{'games':>6}  {'role':<9}" + "".join(f"{name:<24}" for name in names)
    rows = [
        f"{f'{one.first}-{one.last}':<11}{one.n_games:>6}  {role.value:<9}"
        + "".join(f"{one.figures[f'{role.value}/{name}']!s:<24}" for name in names)
        for one in windows
        for role in (Role.CIVILIAN, Role.SPY)
    ]
    return "\n".join(row.rstrip() for row in (head, *rows))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m vision_zero.evaluate clues", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's output_dir")
    parser.add_argument("--images", nargs="+", default=[], help="where the pairs are, if the run had them elsewhere")
    parser.add_argument("--scenes_dir", help=GameConfig.__dataclass_fields__["scenes_dir"].metadata["help"])
    parser.add_argument("--window", type=int, default=10, help="iterations per line of the table (default: 10)")
    options = parser.parse_args(arguments)
    if options.window < 1:
        raise ValueError(f"window={options.window} must be at least 1")
    print(windows_table(clue_windows(options.run, options.images, options.scenes_dir, options.window)))
