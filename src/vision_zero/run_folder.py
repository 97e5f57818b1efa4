"""The folder of a run: its options and code, what was recorded, and which checkpoints are complete.

config.yaml  git.txt  git.diff  versions.txt      how to run it again, with the options as they are now
changes.jsonl                                     options that were changed at a resume, from which step on
pairs.jsonl  model.json                           fingerprints of the pairs and the model that it was begun with
metrics.jsonl  switches.jsonl  games/             what happened
arena.jsonl                                       win rates against the start model, if asked for
checkpoint-N/                                     to resume; COMPLETE is written last: sizes and SHA-256 of its files
checkpoint-N/export/                              to load elsewhere; EXPORTED beside it is the same for its files
served_adapter/                                   what vLLM servers with --enable-lora load before a rollout
set_aside/after-N/                                what followed checkpoint-N, when the run went on from it again
"""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from vision_zero.data.errors import shorten
from vision_zero.data.folder_lock import LOCK

CONFIG, METRICS, SWITCHES, ARENA = "config.yaml", "metrics.jsonl", "switches.jsonl", "arena.jsonl"
CHANGES, PAIRS, MODEL, SET_ASIDE = "changes.jsonl", "pairs.jsonl", "model.json", "set_aside"
GAMES, EXPORT, COMPLETE, EXPORTED, STATE = "games", "export", "COMPLETE", "EXPORTED", "iterative_spo.json"
OF_TRAINING = ("optimizer", "scheduler", "rng_state", "global_step", "zero")  # how files that are no model begin

FACTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "config" / "recorded.yaml").read_text("utf-8"))
PLACES: tuple[str, ...] = tuple(FACTS["places"])  # options that are paths: another spelling of one is no change
FIXED_OPTIONS: tuple[str, ...] = tuple(chain(*FACTS["fixed_options"]))
"""Options a resumed run must keep: they decide the games, or are in the checkpoint."""
OF_THE_COMMAND = ("output_dir", "resume", "resume_from")  # options that are no property of a run

CODE = ("git.txt", "git.diff", "versions.txt")  # written before config.yaml: a folder of these alone holds no run yet
SERVED = "served_adapter"
BEFORE_THE_RUN = frozenset({*CODE, PAIRS, MODEL, LOCK, SERVED})


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
        failed = WriteError(f"{path}: cannot be written: {reason}; {free}")
        failed.strerror = f"{reason}; {free}"
        raise failed from error


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _flush(path.parent)


def _flush(path: Path) -> None:
    """Flush a file or folder to the disk, against a power cut; some file systems, as SMB and FUSE ones, flush none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


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


MARK = "written by vision_zero"  # in pictures that are written, by which they are known when they are to be replaced


def marked() -> Any:
    """The Exif of a picture that is written."""
    from PIL import ExifTags, Image  # needed where pictures are drawn alone

    exif = Image.Exif()
    exif[ExifTags.Base.Software] = MARK
    return exif


def check_own(path: Path, option: str, mark: str = MARK, *, at_start: bool = False) -> None:
    """Check that a file is new, empty or has our `mark` in it, or `at_start`. Raises RunFolderError with `option`."""
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise RunFolderError(f"{option} {path}: cannot be read: {error.strerror}") from error
    if content and not (content.startswith(mark.encode()) if at_start else mark.encode() in content):
        raise RunFolderError(f"{option} {path}: is there and was not written by this command; give another name")


@contextmanager
def writing_for(path: Path, option: str) -> Iterator[None]:
    """Make the folder of a file. Raises RunFolderError, with `option`, if that or the block, which writes it, fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RunFolderError(f"{option} {path}: cannot be written: {error.strerror}") from error


def check_appendable(path: Path, option: str, begin: str) -> None:
    """`check_own` of a file whose lines `begin` so, and that can be opened to append to it. Raises RunFolderError."""
    check_own(path, option, begin, at_start=True)
    with writing_for(path, option), path.open("a"):
        pass


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


FORMER_NAMES: dict[str, str] = FACTS["former_names"]
"""Parts of the names of metrics and of fields of game records, as earlier versions wrote them, and today's."""
REMOVED_OPTIONS: dict[str, float] = FACTS["removed_options"]  # of earlier versions, and values that are constants now
REPLACED: dict[str, str] = FACTS["replaced"]  # those of them that have a successor, and which


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
    """Every whole line, under today's names. Raises RunFolderError for no JSON object, or without a `needed` name."""
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
    """The run's options. Raises RunFolderError for none, or a `needed` one that is absent, empty or of a wrong type."""
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


def mark_complete(folder: Path, mark: Path | None = None, written: Iterable[str] = ()) -> None:
    """Write the mark (default: COMPLETE in it) of a checkpoint, once all that was `written` is flushed to the disk."""
    if written and not in_time(lambda: {*written} <= files_below(folder).keys()):
        raise WriteError(f"{folder}: files that another node wrote do not appear here")
    paths = files_below(folder)
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(_sha256, paths.values()))
    for flushed in (*paths.values(), *(path for path in folder.rglob("*") if path.is_dir()), folder, folder.parent):
        _flush(flushed)
    files = {name: [path.stat().st_size, own] for (name, path), own in zip(paths.items(), hashes, strict=True)}
    run = folder.parent
    records, options = ({}, {}) if mark else (recorded(run), _identity(run) if (run / CONFIG).is_file() else {})
    _write_atomically(mark or folder / COMPLETE, _mark_text(files, records, options))


def _identity(run: Path) -> dict[str, Any]:
    """Options that make a checkpoint one of this run; places may have been moved."""
    options = options_at(run)
    return {name: options.get(name) for name in FIXED_OPTIONS if name not in PLACES}


def verify(folder: Path, mark: Path | None = None, *, model_alone: bool = False) -> None:
    """Check the files of `folder` against its `mark`; `model_alone`: not those of training. Raises RunFolderError."""
    mark = mark or folder / COMPLETE
    text = mark.read_bytes() if mark.is_file() else b""
    state = folder / STATE
    if not text and "step" not in ((_record(state.read_bytes()) if state.is_file() else None) or {}):
        print(f"{folder} was saved by an earlier version, without sizes and SHA-256: not verified", file=sys.stderr)
        return
    kept, paths = _record(text) or {}, files_below(folder)
    files = kept.get("files")
    if not isinstance(files, dict) or text != _mark_text(files, kept.get("records"), kept.get("options")).encode():
        raise RunFolderError(f"{folder} is damaged: {mark.name} is not there, or not as it was written")
    wrong = [f"{name} is missing" for name in files if name not in paths]
    wrong += [f"{name} was not saved with it" for name in paths if name not in files]
    sizes = {name: path.stat().st_size for name, path in paths.items() if name in files}
    wrong += [f"{name} has {own} bytes, not {files[name][0]}" for name, own in sizes.items() if own != files[name][0]]
    if not wrong:
        read = [name for name in files if not (model_alone and name.startswith(OF_TRAINING))]
        with ThreadPoolExecutor() as pool:
            hashes = pool.map(_sha256, [paths[name] for name in read])
            pairs = zip(read, hashes, strict=True)
            wrong = [f"{name} has other bytes than were saved" for name, own in pairs if own != files[name][1]]
    if wrong:
        raise RunFolderError(f"{folder} is damaged: {shorten(wrong)}")


def files_below(folder: Path) -> dict[str, Path]:
    """Files by relative name, without the marks, the export and hidden ones (begun writes, a file browser's)."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in found.items()
        if name.parts[0] not in (EXPORT, COMPLETE, EXPORTED) and not any(part.startswith(".") for part in name.parts)
    }


def in_time(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether `condition` holds, now or soon: a network file system may show late what another machine wrote."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.2)
    return holds


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mark_text(files: Mapping[str, Any], records: Any, options: Any) -> str:
    kept = {"files": files, "records": records, "options": options}
    return json.dumps({**kept, "sha256": hashlib.sha256(json.dumps(kept).encode()).hexdigest()}, indent=1)


def recorded(output_dir: Path) -> dict[str, list[list[int]]]:
    """Steps of the lines of each file of records, and of the files of games with their sizes."""
    steps = {name: [[one["step"], 0] for one in _lines(output_dir / name)[0]] for name in (METRICS, SWITCHES, ARENA)}
    return {**steps, GAMES: [[step, path.stat().st_size] for step, path in game_files(output_dir)]}


def game_files(output_dir: Path) -> list[tuple[int, Path]]:
    """Files of games by their steps; one of another name, as a copy, is none."""
    found = [(re.fullmatch(r"step-(\d+)", path.stem), path) for path in (output_dir / GAMES).glob("step-*.jsonl")]
    return sorted((int(match[1]), path) for match, path in found if match)


def _lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Lines that have a step, and the numbers of those that are damaged."""
    lines = [_record(line) or {} for line in (path.read_bytes() if path.exists() else b"").split(b"\n")[:-1]]
    damaged = [number for number, line in enumerate(lines, start=1) if not isinstance(line.get("step"), int)]
    return [_with_todays_names(line) for line in lines if isinstance(line.get("step"), int)], damaged


def warn_of_little_space(output_dir: Path) -> None:
    """Say so when the last complete checkpoint took more space than is free now."""
    for last in complete_checkpoints(output_dir)[-1:]:
        size = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
        if size > (free := shutil.disk_usage(output_dir).free):
            took = f"{last.name} took {size / 1e9:.3f} GB"
            print(f"warning: {output_dir}: {free / 1e9:.3f} GB are free, {took}", file=sys.stderr)


def remove_incomplete(checkpoint: Path) -> None:
    with writing(checkpoint):
        if checkpoint.exists() and not is_complete(checkpoint):
            shutil.rmtree(checkpoint)


def checkpoints(output_dir: Path) -> list[Path]:
    """Folders that are checkpoints by their names, complete or not, oldest step first."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in output_dir.glob("checkpoint-*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match and path.is_dir())]


def complete_checkpoints(output_dir: Path) -> list[Path]:
    return [path for path in checkpoints(output_dir) if is_complete(path)]


def rotate(output_dir: Path, keep: int | None) -> None:
    """Remove all but the newest `keep` complete checkpoints (None: keep all), each after its mark."""
    for checkpoint in complete_checkpoints(output_dir)[:-keep] if keep else []:
        with writing(checkpoint):
            if checkpoint.is_symlink():  # what it names is not the run's to remove
                checkpoint.unlink()
                continue
            (checkpoint / COMPLETE).unlink()
            shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _drop_after(path: Path, last: int) -> None:
    """Keep the lines up to step `last`. Lines that are damaged go too, are told, and stay in a copy of the file."""
    lines, damaged = _lines(path)
    if damaged:
        copy = shutil.copyfile(path, path.with_name(f"{path.name}.damaged"))
        where = f"{path}, line {', '.join(map(str, damaged))}"
        print(f"{where}: damaged, left out; the file as it was is kept as {copy}", file=sys.stderr)
    if path.exists():
        write_json_lines(path, [line for line in lines if line["step"] <= last])


def find_start(output_dir: Path, resume: bool, config: Mapping[str, Any], step: int | None = None) -> Path | None:
    """The checkpoint to resume from (of `step`, or the last), once all is checked. Reads only.

    Returns None for a run that starts at its beginning. Raises RunFolderError when the folder holds another run
    (without `resume`), or with it, when there is nothing to resume, FIXED_OPTIONS differ in `config`, or the checkpoint
    is not complete or damaged.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise RunFolderError(f"{output_dir} is a file; choose a folder as --output_dir")
    existing = sorted(path.name for path in output_dir.iterdir()) if output_dir.exists() else []
    if not resume:
        if not set(existing) <= BEFORE_THE_RUN:
            existing = [name for name in existing if name != LOCK]
            raise RunFolderError(
                f"{output_dir} is not empty ({', '.join(existing[:5])}{', ...' if len(existing) > 5 else ''}): it "
                "holds another run. Continue that one with --resume, or choose another --output_dir"
            )
        return None
    changed = changed_options(output_dir, config, step)
    # An older run was not asked how its pairs are read: whatever is answered now, resume.py compares the pairs.
    fixed = {*FIXED_OPTIONS, *REMOVED_OPTIONS} - ({"pair_by", "split"} - read_config(output_dir).keys())
    wrong = [name for name in changed if name in fixed and any(changed[name])]
    if wrong:  # an older run does not name an option that is off
        now = {name: REMOVED_OPTIONS.get(name, changed[name][1]) for name in wrong}
        said = [f"was started with {one}={changed[one][0]} and cannot go on with {one}={now[one]}" for one in wrong]
        moved = f" (moved? write its place into {output_dir / CONFIG})" if set(PLACES) & set(changed) else ""
        advice = f"resume with the same values{moved}, or start another run"
        advice = "; ".join([REPLACED[name] for name in wrong if name in REPLACED] or [advice])
        raise RunFolderError(f"{output_dir} {', '.join(said)}; {advice}")
    complete = complete_checkpoints(output_dir)
    unmarked = [path for path in checkpoints(output_dir) if path not in complete and (path / STATE).is_file()]
    if len(unmarked) > 1:  # one is what a kill leaves
        names = ", ".join(path.name for path in unmarked)
        raise RunFolderError(
            f"{output_dir}: {names} have no {COMPLETE}, as if a copy had left it out; copy it too, or move them away"
        )
    if step is None and not complete:
        return None
    chosen = complete[-1] if step is None else checkpoint_path(output_dir, step)
    if chosen not in complete:
        steps = ", ".join(str(step_of(path)) for path in complete) or "none"
        raise RunFolderError(f"--resume_from {step}: {chosen} is no complete checkpoint; complete ones: {steps}")
    try:
        verify(chosen)
    except RunFolderError as error:
        raise RunFolderError(f"{error}. {_instead_of(chosen, complete)}") from error
    saved, now = (_record((chosen / COMPLETE).read_bytes()) or {}).get("options") or {}, _identity(output_dir)
    for name in (name for name in saved if saved[name] != now[name]):
        raise RunFolderError(
            f"{chosen} was saved with {name}={saved[name]}, {output_dir / CONFIG} has {name}={now[name]}: it is of "
            "another run, or that file was edited; put back what was there, or start another run"
        )
    return chosen


def _instead_of(damaged: Path, complete: list[Path]) -> str:
    """What continues a run whose checkpoint is damaged: the newest one before it that is whole, else one after it."""
    place = complete.index(damaged)
    for other in (*reversed(complete[:place]), *complete[place + 1 :]):
        try:
            verify(other)
        except RunFolderError:
            continue
        return f"--resume_from {step_of(other)} goes on from {other}, the next one that is whole"
    return "No other complete checkpoint is whole: put the file back, or start another run"


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not path.exists() else next(one for one in numbered if not one.exists())


def rewind(output_dir: Path, checkpoint: Path | None) -> None:
    """Drop what was recorded after `checkpoint` (None: everything), and checkpoints that are not complete.

    Complete checkpoints after it are moved to set_aside/, together with copies of all that was recorded.
    """
    step = step_of(checkpoint) if checkpoint else 0
    later = [path for path in complete_checkpoints(output_dir) if step_of(path) > step]
    if later:
        aside = _free_name(output_dir / SET_ASIDE / f"after-{step}")
        shutil.copytree(output_dir, aside, ignore=shutil.ignore_patterns(SET_ASIDE, LOCK, "checkpoint-*"))
        for path in reversed(later):
            path.rename(aside / path.name)
        names = ", ".join(path.name for path in later)
        print(f"{names} and what was recorded up to there are kept in {aside}", file=sys.stderr)
    for path in checkpoints(output_dir):
        if not is_complete(path):
            whole = (path / STATE).is_file()  # or nearly, so it is kept
            fate = f"kept in {SET_ASIDE}/" if whole else "not saved whole, removed"
            print(f"{path} has no {COMPLETE}: {fate}", file=sys.stderr)
            if whole:
                (output_dir / SET_ASIDE).mkdir(exist_ok=True)
                path.rename(_free_name(output_dir / SET_ASIDE / path.name))
            else:
                remove_incomplete(path)
    for name, last in ((METRICS, step), (SWITCHES, step - 1), (ARENA, step if checkpoint else -1)):
        _drop_after(output_dir / name, last)
    for number, path in game_files(output_dir):
        if number >= step:
            path.unlink()


def options_at(output_dir: Path, step: int | None = None) -> dict[str, Any]:
    """The run's options, or as they were at `step`, before later changes. Raises RunFolderError if there is no run."""
    if not (output_dir / CONFIG).is_file():
        raise RunFolderError(f"{output_dir} holds no run to resume: {CONFIG} is not there; start it without --resume")
    options = without_removed_options(read_config(output_dir))
    for change in reversed(read_json_lines(output_dir / CHANGES, "step", "options")):
        if step is not None and change["step"] > step:
            options |= {name: then for name, (then, _) in change["options"].items()}
    return options


def changed_options(output_dir: Path, config: Mapping[str, Any], step: int | None = None) -> dict[str, tuple[Any, Any]]:
    """Options that differ from those of the run (as they were at `step`): name -> (then, now)."""
    then = options_at(output_dir, step)
    now = yaml.safe_load(yaml.safe_dump(dict(config)))
    return {
        key: (then.get(key), now.get(key))
        for key in sorted({*then, *now} - {*OF_THE_COMMAND})
        if then.get(key) != now.get(key) and not (key in PLACES and _real(then.get(key)) == _real(now.get(key)))
    }


def _real(places: Any) -> Any:
    return [os.path.realpath(str(place)) for place in (places if isinstance(places, list) else [places])]


def write_changes(output_dir: Path, config: Mapping[str, Any], step: int) -> None:
    """Make `config` the options of the run from `step` on; what changed is one line of CHANGES, the last."""
    changed, all_lines = changed_options(output_dir, config, step), read_json_lines(output_dir / CHANGES)
    if changed_options(output_dir, config):
        write_config(output_dir, config)
    lines = [line for line in all_lines if line["step"] <= step]
    if changed:
        lines.append({"step": step, "iteration": step // steps_per_iteration(config), "options": changed})
    if lines != all_lines:
        write_json_lines(output_dir / CHANGES, lines)


def steps_per_iteration(config: Mapping[str, Any]) -> int:
    return int(config.get("updates_per_iteration") or 1) * int(config.get("num_iterations") or 1)


def write_config(output_dir: Path, config: Mapping[str, Any]) -> None:
    config = {**config, **{name: value for name, value in (("resume", False), ("resume_from", None)) if name in config}}
    _write_atomically(output_dir / CONFIG, yaml.safe_dump(config, sort_keys=True))


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
    packages = (package.metadata for package in metadata.distributions())  # each look at it parses a file
    versions = sorted(f"{package['Name']}=={package['Version']}" for package in packages)
    status = _git("log", "-1", "--format=%H %cI %s") + _git("status", "--short")
    for name, text in zip(CODE, (status, _git("diff", "HEAD"), "\n".join(versions) + "\n"), strict=True):
        _write_atomically(output_dir / name, text)
    write_config(output_dir, config)
