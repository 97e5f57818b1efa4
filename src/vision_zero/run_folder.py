"""The folder of a run: its options and code, what was recorded, and which checkpoints are complete.

config.yaml  git.txt  git.diff  versions.txt      how to run it again
metrics.jsonl  switches.jsonl  games/             what happened
arena.jsonl                                       win rates against the start model, if asked for
checkpoint-N/                                     to resume; COMPLETE is written last
checkpoint-N/export/                              to load elsewhere
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

CONFIG, METRICS, SWITCHES, ARENA = "config.yaml", "metrics.jsonl", "switches.jsonl", "arena.jsonl"
GAMES, EXPORT, COMPLETE = "games", "export", "COMPLETE"

FIXED_OPTIONS = (
    *("seed", "games_per_iteration", "updates_per_iteration", "num_iterations", "schedule"),
    *("learning_rate", "weight_decay", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "freeze_vision"),
)
"""Options a resumed run must keep: those of the first line decide a step's games, the checkpoint holds the others."""

CODE = ("git.txt", "git.diff", "versions.txt")
"""Files written before config.yaml: a folder that holds these alone holds no run yet."""


class RunFolderError(ValueError):
    """A run folder that may not be written to, or cannot be resumed."""


class WriteError(OSError):
    """A file or folder of a run that cannot be written: a full disk, a quota, a lost mount, no permission."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises WriteError, with path and free space, for what goes wrong in the block, which only writes."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:  # torch raises RuntimeError, tokenizers nothing narrower than Exception
        if type(error) is not Exception and not isinstance(error, (OSError, RuntimeError, SafetensorError)):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        try:
            there = next(one for one in (path, *path.parents) if one.exists())
            free = f"{shutil.disk_usage(there).free / 1e9:.3f} GB are free there"
        except OSError:
            free = "its disk does not answer"
        raise WriteError(f"{path}: cannot be written: {reason}; {free}") from error


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, "utf-8")
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    _write_atomically(path, json.dumps(value, indent=1))


def write_json_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    _write_atomically(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            _end_last_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")


def check_appendable(path: Path, option: str) -> None:
    """Check that a file can be opened to append to it. Raises RunFolderError with the name of the option."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        raise RunFolderError(f"{option} {path}: cannot be written: {error.strerror}") from error


def _end_last_line(path: Path) -> None:
    """Complete or remove a last line that a killed process left: a whole record gets its line end, half a one goes."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) in (b"", b"\n"):
            return
        file.seek(0)
        rest = file.read().split(b"\n")[-1]
        if _record(rest) is not None:
            file.write(b"\n")
            return
        file.truncate(end - len(rest))
    print(f"{path}: removed the last line, which a killed process left unfinished", file=sys.stderr)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


FORMER_NAMES = {
    "claimless": "no_claim",
    "line_ups": "matchups",
    "readable": "parsed",
    "reply": "completion",
    "right_blind": "right_image_swapped",
    "sight": "image_gain",
    "telling": "discriminative",
    "truth": "grounding",
    "unreadable": "unparsed",
}
"""Parts of the names of metrics and of fields of game records, as earlier versions wrote them, and today's."""
REMOVED_OPTIONS = {"failed_edits_seed": 0, "holdout_seed": 0, "max_clue_chars": 300, "max_logp_difference": 0.1}
"""Options of earlier versions, and the values that are constants now."""
REPLACED = {
    "max_logp_difference": "leave it out: sampling/logp_gap/mean has fixed limits now, 1e-3 in float32, 0.05 in 16 bits"
}
"""Those of them that have a successor, and which."""


def without_removed_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` but those of REMOVED_OPTIONS that have the value of today's constant."""
    return {name: value for name, value in options.items() if REMOVED_OPTIONS.get(name, ...) != value}


def replaced_words(names: Iterable[str]) -> str:
    """What took the place of those of `names` that are REPLACED, to end a message with."""
    given = " ".join(names)
    return "".join(f"; {name}: {instead}" for name, instead in REPLACED.items() if name in given)


def _with_todays_names(value: Any) -> Any:
    """JSON whose keys, such as `truth/civilian/telling`, are named as today: `grounding/civilian/discriminative`."""
    if isinstance(value, list):
        return [_with_todays_names(one) for one in value] if value and isinstance(value[0], (dict, list)) else value
    if not isinstance(value, dict):
        return value
    return {
        "/".join(FORMER_NAMES.get(part, part) for part in name.split("/")): _with_todays_names(one)
        for name, one in value.items()
        if name not in REMOVED_OPTIONS
    }


def read_json_lines(path: Path, *needed: str) -> list[dict[str, Any]]:
    """Every whole line, under today's names, without a last line that a killed process left unfinished.

    Raises RunFolderError for a line that is no JSON object or lacks one of the `needed` names.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]  # splitlines() also cuts at U+2028 in a clue
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        record = _record(line)
        if record is None:
            raise RunFolderError(f"{path}, line {number}: not JSON; repair or remove the line")
        record = _with_todays_names(record)
        if missing := [name for name in needed if name not in record]:
            raise RunFolderError(f"{path}, line {number}: has no {missing[0]!r}; repair or remove the line")
        records.append(record)
    return records


def read_config(run: Path, **needed: type) -> dict[str, Any]:
    """The resolved options of a run.

    Raises RunFolderError for a file without options, and for a `needed` one that is absent, empty or of a wrong type.
    """
    file = run / CONFIG
    reason = ""
    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a day that no month has
        values, reason = None, f" (not a YAML file: {' '.join(str(error).split())})"
    if not isinstance(values, dict):
        raise RunFolderError(f"{file} holds no options{reason}")
    for name, kind in needed.items():
        value = values.get(name)
        if type(value) is not kind or not value or (isinstance(value, int) and value < 1):
            wanted = {int: "a whole number above 0", list: "a list"}[kind]
            raise RunFolderError(f"{file} has {name}: {value!r}, which must be {wanted}")
    return values


def checkpoint_path(output_dir: str | Path, step: int) -> Path:
    return Path(output_dir) / f"checkpoint-{step}"


def is_complete(checkpoint: Path) -> bool:
    return (checkpoint / COMPLETE).is_file()


def mark_complete(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, once everything below it is flushed to the disk."""
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _write_atomically(checkpoint / COMPLETE, "")


def warn_of_little_space(output_dir: Path) -> None:
    """Say so when the last complete checkpoint took more space than is free now."""
    for last in complete_checkpoints(output_dir)[-1:]:
        size = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
        if size > (free := shutil.disk_usage(output_dir).free):
            print(
                f"warning: {output_dir}: {free / 1e9:.3f} GB are free, {last.name} took {size / 1e9:.3f} GB",
                file=sys.stderr,
            )


def remove_incomplete(checkpoint: Path) -> None:
    if checkpoint.exists() and not is_complete(checkpoint):
        shutil.rmtree(checkpoint)


def checkpoints(output_dir: Path) -> list[Path]:
    """Folders that are checkpoints by their names, complete or not, oldest step first."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in output_dir.glob("checkpoint-*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match and path.is_dir())]


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest step first."""
    return [path for path in checkpoints(output_dir) if is_complete(path)]


def rotate(output_dir: Path, keep: int | None) -> None:
    """Remove all but the newest `keep` complete checkpoints (None: keep all), each after its mark."""
    for checkpoint in complete_checkpoints(output_dir)[:-keep] if keep else []:
        (checkpoint / COMPLETE).unlink()
        shutil.rmtree(checkpoint)


def _drop_after(path: Path, key: str, last: int) -> None:
    if path.exists():
        write_json_lines(path, [line for line in read_json_lines(path, key) if line[key] <= last])


def find_start(output_dir: Path, resume: bool, config: Mapping[str, Any]) -> Path | None:
    """The checkpoint to resume from, once it is checked that this run may write to `output_dir`. Reads only.

    Returns None for a run that starts at its beginning. Raises RunFolderError when the folder holds another run
    (without `resume`), or with it, when there is nothing to resume or one of FIXED_OPTIONS differs in `config`.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise RunFolderError(f"{output_dir} is a file; choose a folder as --output_dir")
    existing = sorted(path.name for path in output_dir.iterdir()) if output_dir.exists() else []
    if not resume:
        if not set(existing) <= set(CODE):
            raise RunFolderError(
                f"{output_dir} is not empty ({', '.join(existing[:5])}{', ...' if len(existing) > 5 else ''}): it "
                "holds another run. Continue that one with --resume, or choose another --output_dir"
            )
        return None
    if CONFIG not in existing:
        raise RunFolderError(f"{output_dir} holds no run to resume: {CONFIG} is not there; start it without --resume")
    changed = changed_options(output_dir, config)
    for name in (*FIXED_OPTIONS, *REMOVED_OPTIONS):
        if name in changed and any(changed[name]):  # an older run does not name an option that is off
            then, now = changed[name][0], changed[name][1] if name in FIXED_OPTIONS else REMOVED_OPTIONS[name]
            raise RunFolderError(
                f"{output_dir} was started with {name}={then} and cannot go on with {name}={now}; "
                + REPLACED.get(name, "resume with the same value, or start another run")
            )
    complete = complete_checkpoints(output_dir)
    return complete[-1] if complete else None


def rewind(output_dir: Path, checkpoint: Path | None) -> None:
    """Drop what was recorded after `checkpoint` (None: everything), and checkpoints that are not complete."""
    for path in checkpoints(output_dir):
        remove_incomplete(path)
    step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    _drop_after(output_dir / METRICS, "step", step)
    _drop_after(output_dir / SWITCHES, "step", step - 1)
    _drop_after(output_dir / ARENA, "step", step if checkpoint else -1)
    for path in (output_dir / GAMES).glob("step-*.jsonl"):
        if int(path.stem.split("-")[1]) >= step:
            path.unlink()


def changed_options(output_dir: Path, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options whose value differs from the one the run was started with: name -> (then, now)."""
    then = without_removed_options(read_config(output_dir))
    now = yaml.safe_load(yaml.safe_dump(dict(config)))
    return {
        key: (then.get(key), now.get(key))
        for key in sorted({*then, *now} - {"resume"})
        if then.get(key) != now.get(key)
    }


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent
    try:
        result = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"git {' '.join(arguments)}: {error}\n"
    return result.stdout if result.returncode == 0 else f"git {' '.join(arguments)}: {result.stderr.strip()}\n"


def describe(output_dir: Path, config: Mapping[str, Any]) -> None:
    """Write what is needed to run this again: resolved options, commit and uncommitted changes, package versions.

    The options come last: they make the folder a run that can be resumed, which must have the others.
    """
    versions = sorted(f"{package.name}=={package.version}" for package in metadata.distributions())
    status = _git("log", "-1", "--format=%H %cI %s") + _git("status", "--short")
    for name, text in zip(CODE, (status, _git("diff", "HEAD"), "\n".join(versions) + "\n"), strict=True):
        _write_atomically(output_dir / name, text)
    _write_atomically(output_dir / CONFIG, yaml.safe_dump(dict(config), sort_keys=True))
