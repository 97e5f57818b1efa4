"""A study is a YAML file: a question, seeds, and arms that each differ from `base.yaml` in a few options."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from files import Line, read_yaml
from vision_zero.config.parse import PARTS, parse, resolved

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


SET_BY_THE_RUNNER = frozenset({"seed", "data_seed", "output_dir", "resume", "arena_games", "run_name", "logging_dir"})
"""Options that no arm may set."""


ALL_SEEDS = 0
"""In the place of a seed, in the result line of all seeds of an arm together."""


@dataclass(frozen=True)
class Arm:
    """What differs from the base: options, and the model that the run starts from (relative to the repository)."""

    name: str
    options: Mapping[str, Any]
    start: str | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """`final_games` deals at the end of a run, `curve_games` at every point of its curve, both against the start.

    A study with `runs_of` trains nothing: it measures what the runs of that study started with and ended with, each
    seed by itself, or the seeds of an arm `together`.
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
    together: bool = False

    @property
    def result_seeds(self) -> tuple[int, ...]:
        """Seeds of an arm's result lines: ALL_SEEDS alone where one line is that of all."""
        return (ALL_SEEDS,) if self.together else self.seeds

    def arm(self, name: str) -> Arm:
        """Raises ValueError for a name that is no arm."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ValueError(f"study {self.name} has no arm {name!r}; it has {', '.join(arm.name for arm in self.arms)}")


def load_study(path: Path) -> Study:
    """Raises ValueError for a file that is no study, by the file's name."""
    content = read_yaml(path)
    try:
        arms = tuple(_arm(name, changes) for name, changes in content.pop("arms").items())
        seeds = tuple(content.pop("seeds"))
        study = Study(name=path.stem, arms=arms, seeds=seeds, **content)  # an unknown name is refused here
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a study: {type(error).__name__}: {error}") from error
    if wrong := _what_is_wrong(study):
        raise ValueError(f"{path}: {wrong}")
    return study


def _arm(name: object, changes: Mapping[str, Any] | None) -> Arm:
    options = {option: value for option, value in (changes or {}).items() if option != "start"}
    start = (changes or {}).get("start")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise ValueError(
            f"arm {name!r} must be a name of letters, digits, `.`, `-` and `_`, in quotes if YAML needs it"
        )
    if not isinstance(start, str | None):
        raise ValueError(f"arm {name}: start {start!r} must be a model's folder")
    if set_here := sorted(SET_BY_THE_RUNNER & options.keys()):
        raise ValueError(f"arm {name} has the option {set_here[0]}, which the runner sets")
    return Arm(name, options, start)


def _what_is_wrong(study: Study) -> str | None:
    """The first invalid value of a study, in words; None if there is none."""
    if (study.runs_of is None) != (study.measure is None):
        return "runs_of and measure go together"
    if type(study.together) is not bool or (study.together and (study.runs_of is None or len(study.seeds) < 2)):
        return f"together: {study.together!r} must be true or false, and true with runs_of and two seeds or more"
    for name in ("title", "question", "claim", "runs_of", "measure"):
        if not isinstance(text := getattr(study, name), str | None):
            return f"{name}: {text!r} must be text"
    for seed in study.seeds:
        if type(seed) is not int or seed < 0:
            return f"seeds: {seed!r} must be a whole number from 0"
    if not study.arms or not study.seeds or len(set(study.seeds)) != len(study.seeds):
        return f"a study needs arms, and seeds that are all different, not {list(study.seeds)}"
    for name, n_games in (("final_games", study.final_games), ("curve_games", study.curve_games)):
        if study.runs_of is not None and n_games != 0:
            return f"{name}: {n_games!r} must be 0, as runs_of plays none"
        if study.runs_of is None and (type(n_games) is not int or n_games < 4 or n_games % 2):
            return f"{name}: {n_games!r} must be an even number from 4, every deal is played twice"
    return None


def load_studies(folder: Path = STUDIES) -> dict[str, Study]:
    """All studies by name. Raises ValueError if there is none, or one with `runs_of` what is not run."""
    studies = {path.stem: load_study(path) for path in sorted(folder.glob("*.yaml"))}
    if not studies:
        raise ValueError(f"{folder}: there are no studies in it")
    for study in studies.values():
        if study.runs_of is not None and (study.runs_of not in studies or studies[study.runs_of].runs_of is not None):
            raise ValueError(f"{folder / study.name}.yaml: runs_of: {study.runs_of!r} must be a study that is run")
    return studies


def choose_studies(known: Mapping[str, Study], names: Sequence[str], runs: bool) -> list[Study]:
    """The named studies, or all: of those that run something, or of those that measure others' runs.

    Raises ValueError for a name that is no study, or one of the other sort.
    """
    check_names(known, names)
    for name in names:
        if (known[name].runs_of is None) != runs:
            program = "transfer.py" if runs else "run.py"
            raise ValueError(f"the study {name} is for another program: python experiments/{program} {name}")
    return [known[name] for name in dict.fromkeys(names or known) if (known[name].runs_of is None) == runs]


def check_names(known: Mapping[str, Study], names: Sequence[str]) -> None:
    """Raises ValueError for a name that is no study."""
    if unknown := sorted(set(names) - known.keys()):
        raise ValueError(f"no study {unknown[0]}; there are {', '.join(known)}")


def load_base(path: Path = BASE) -> Line:
    """Raises ValueError for a file that is no base of studies, by its name."""
    base = read_yaml(path)
    if missing := [name for name in ("model_name_or_path", "iterations") if name not in base]:
        raise ValueError(f"{path}: {missing[0]} is missing")
    if set_here := sorted(SET_BY_THE_RUNNER & base.keys()):
        raise ValueError(f"{path}: {set_here[0]} is set by the runner")
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
    """Key equal for runs that train the same: of options that differ from defaults, the start's weights, `TRAINING`.

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
        raise ValueError(f"there is no model in {model}; of a run, give a checkpoint")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
