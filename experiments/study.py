"""A study is a YAML file: a question, seeds, and arms that each differ from `base.yaml` in a few options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from vision_zero.command_line import PARTS, parse, resolved

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BASE = HERE / "base.yaml"
STUDIES = HERE / "studies"

TRAINING = 1
"""Raised by hand when a change of the code changes what a run gives: results of other numbers are made again."""

NOT_IN_THE_KEY = frozenset(
    {
        *("output_dir", "run_name", "logging_dir", "resume", "seed", "data_seed", "model_name_or_path"),
        *("save_steps", "save_total_limit", "record_games_every", "disable_tqdm", "report_to"),
        *("arena_every", "arena_games", "arena_images"),
    }
)
"""Options that leave what is trained as it is, or that the key has in another form (the start model's weights)."""


@dataclass(frozen=True)
class Arm:
    """What differs from the base: options, and the model that the run starts from (relative to the repository)."""

    name: str
    options: Mapping[str, Any]
    start: str | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """`final_games` deals at the end of a run, `curve_games` at every point of its curve, both against the start.

    A study with `runs_of` trains nothing: it measures what the runs of that study started with and ended with.
    """

    name: str
    title: str
    question: str
    claim: str
    seeds: tuple[int, ...]
    final_games: int
    curve_games: int
    arms: tuple[Arm, ...] = field(repr=False)
    runs_of: str | None = None
    measure: str | None = None

    def arm(self, name: str) -> Arm:
        """Raises ValueError for a name that is no arm."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ValueError(f"study {self.name} has no arm {name!r}; it has {', '.join(arm.name for arm in self.arms)}")


def load_study(path: Path) -> Study:
    """Raises ValueError for a file that is no study, by the file's name."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        arms = tuple(
            Arm(
                str(name),
                {key: value for key, value in (changes or {}).items() if key != "start"},
                (changes or {}).get("start"),
            )
            for name, changes in content.pop("arms").items()
        )
        study = Study(
            name=path.stem, arms=arms, **{**content, "seeds": tuple(content["seeds"])}
        )  # an unknown key is refused here
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a study: {type(error).__name__}: {error}") from error
    if not study.arms or not study.seeds or len(set(study.seeds)) != len(study.seeds):
        raise ValueError(f"{path}: a study needs arms, and seeds that are all different")
    if (study.runs_of is None) != (study.measure is None):
        raise ValueError(f"{path}: runs_of and measure go together")
    return study


def load_studies(folder: Path = STUDIES) -> dict[str, Study]:
    """All studies by name."""
    return {path.stem: load_study(path) for path in sorted(folder.glob("*.yaml"))}


def load_base(path: Path = BASE) -> dict[str, Any]:
    base = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(base, dict):
        raise ValueError(f"{path}: must hold `name: value` lines")
    return base


def base_id(base: Mapping[str, Any]) -> str:
    text = json.dumps({name: value for name, value in base.items() if name not in NOT_IN_THE_KEY}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def options_of(arm: Arm, base: Mapping[str, Any], seed: int, curve_games: int) -> dict[str, Any]:
    """The options of a run, as a file for `--config`."""
    options = {**base, **arm.options, "seed": seed}
    if arm.start is not None:
        options["model_name_or_path"] = arm.start
    if "arena_every" in options:
        options["arena_games"] = curve_games
    return options


def key_of(options: Mapping[str, Any]) -> str:
    """Equal for runs that train the same: what differs from every default, the start's weights, the code's number.

    The options are parsed as training parses them, and values that are defaults do not count: an option that is added
    later changes no key. The seed is not in it. Raises ValueError for options that training would refuse.
    """
    with TemporaryDirectory() as folder:
        config = Path(folder) / "options.yaml"
        config.write_text(yaml.safe_dump(dict(options)), "utf-8")
        parsed = resolved(*parse(["--config", str(config), "--output_dir", str(Path(folder) / "run")]))
    changed = {name: value for name, value in parsed.items() if name not in NOT_IN_THE_KEY and value != _default(name)}
    start = weights_hash(ROOT / str(options["model_name_or_path"]))
    text = json.dumps([TRAINING, start, changed], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _default(name: str) -> Any:
    for part in PARTS:
        for one in fields(part):
            if one.name == name:
                return one.default_factory() if one.default_factory is not MISSING else one.default
    return None


def weights_hash(model: Path) -> str:
    """Of the weight files of a model folder. Raises ValueError when there are none."""
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise ValueError(f"there is no model in {model}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
