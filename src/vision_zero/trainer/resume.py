"""What a resumed run is checked against: its checkpoint's state, what it recorded, and its pairs and model.

Fingerprints of pairs and model are written when the run begins. They are quick, so there is something they do not see:
of more than SAMPLED pairs, the bytes of the images in between (every id, the order, and the sizes of SIZED pairs are
seen); of a file above 256 KiB, what is between its BLOCKS evenly spaced blocks; and images that a program draws.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from vision_zero import ranks, run_folder
from vision_zero.data.pairs import BadImageError, DatasetImage, ImageFile
from vision_zero.game.spy_game import pair_of_game
from vision_zero.run_folder import RunFolderError
from vision_zero.types import ImagePair, ImageSource

SAMPLED, SIZED = 1000, 20_000
BLOCKS, BLOCK_BYTES = 64, 4096
MODEL_FILES = (".json", ".jinja", ".txt", ".model", ".safetensors", ".bin")
PUT_BACK = "put it back, or start another run"


def read_state(checkpoint: Path | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """Our state in `checkpoint` (None: {}), once it fits the checkpoint's step. Raises RunFolderError."""
    if checkpoint is None:
        return {}
    optimizer = "optimizer.bin" if config.get("fsdp_config") else "optimizer.pt"
    optimizer = "global_step*" if config.get("deepspeed") else optimizer
    scheduler = () if _has_scheduler(config.get("deepspeed")) else ("scheduler.pt",)
    for name in (run_folder.STATE, "trainer_state.json", *scheduler, optimizer):
        if not any(checkpoint.glob(name)):  # transformers goes on without
            raise RunFolderError(
                f"{checkpoint} has no {name}; resume with the --deepspeed or --fsdp_config it was saved with"
            )
    shards, now = len([*checkpoint.glob("global_step*/*zero_pp_rank_*_optim_states.pt")]), ranks.world_size()
    if shards not in (0, now):
        raise RunFolderError(
            f"{checkpoint} was saved by ZeRO on {shards} processes, a part of the optimizer each, and there are {now}: "
            f"resume on {shards}, or begin anew from its weights (vision_zero.export {checkpoint} FOLDER, MODEL=FOLDER)"
        )
    try:
        state = json.loads((checkpoint / run_folder.STATE).read_text("utf-8"))
        step = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["global_step"]
        iteration, dealt = state["schedule"]["iteration"], state["games_dealt"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{checkpoint}: {run_folder.STATE} or trainer_state.json is damaged: {error}") from error
    per_iteration, games = run_folder.steps_per_iteration(config), config["games_per_iteration"]
    steps = {step, run_folder.step_of(checkpoint), state.get("step", step), iteration * per_iteration}
    if len(steps) > 1 or dealt != iteration * games:
        raise RunFolderError(
            f"{checkpoint} holds parts of different moments: trainer_state.json is of step {step}, {run_folder.STATE} "
            f"of iteration {iteration} ({per_iteration} steps and {games} games each) with {dealt} games dealt"
        )
    if iteration > config["iterations"]:
        raise RunFolderError(f"iterations={config['iterations']}, but {checkpoint} is of iteration {iteration}")
    return dict(state)


def _has_scheduler(deepspeed: Any) -> bool:
    """Whether DeepSpeed's options (a file, or its content) have a scheduler, whose state is among DeepSpeed's files."""
    if isinstance(deepspeed, str) and Path(deepspeed).is_file():
        deepspeed = json.loads(Path(deepspeed).read_text("utf-8"))
    return isinstance(deepspeed, Mapping) and "scheduler" in deepspeed


def restore_records(output_dir: Path, checkpoint: Path) -> None:
    """Say which records that `checkpoint` knows of are lost; lines of metrics are written again, as it has them."""
    mark = json.loads((checkpoint / run_folder.COMPLETE).read_text("utf-8") or "{}")
    now = run_folder.recorded(output_dir)
    lost = {name: [one[0] for one in then if one not in now[name]] for name, then in mark.get("records", {}).items()}
    for name, steps in lost.items():
        if steps:
            again = f"; written again from {checkpoint}" if name == run_folder.METRICS else ""
            print(f"{output_dir / name}: lost or not whole, step {', '.join(map(str, steps))}{again}", file=sys.stderr)
    metrics = output_dir / run_folder.METRICS
    if lost.get(run_folder.METRICS):
        logged = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["log_history"]
        lines = {one["step"]: {"step": one["step"], **one} for one in logged if "loss" in one}
        lines |= {line["step"]: line for line in run_folder.read_json_lines(metrics)}
        run_folder.write_json_lines(metrics, [line for _, line in sorted(lines.items())])


# ------------------------------------------------------------------------------------------------- pairs and model


def fingerprint_pairs(pairs: Sequence[ImagePair]) -> list[dict[str, Any]]:
    """Of each pair, id, domain and the fingerprints of its images."""
    read, sized = -(-len(pairs) // SAMPLED), -(-len(pairs) // SIZED)
    lines = []
    for row, pair in enumerate(pairs):
        images = [image for image in (pair.image, pair.edited) if image is not None]
        prints = [_fingerprint(image, row % sized == 0, row % read == 0) for image in images]
        lines.append({"id": pair.id, "domain": pair.domain, "images": prints})
    return lines


def _fingerprint(image: ImageSource, sized: bool, read: bool) -> str:
    if isinstance(image, ImageFile):
        try:
            return fingerprint_file(image.path) if read else str(image.path.stat().st_size) if sized else ""
        except OSError:
            return "cannot be read"
    if isinstance(image, DatasetImage) and (sized or read):
        try:
            content = image.content()
        except BadImageError:
            return "cannot be read"
        if isinstance(content, ImageFile):
            return _fingerprint(content, sized, read)
        return hashlib.sha256(content).hexdigest() if read else ""
    return ""


def fingerprint_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(number * max(BLOCK_BYTES, (size - BLOCK_BYTES) // (BLOCKS - 1)))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def fingerprint_model(name: str, revision: str | None) -> dict[str, str]:
    """Fingerprints of the files of a model's folder or of its copy in the Hub's cache, {} if it has none."""
    folder = Path(name)
    try:
        if not folder.is_dir():
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError, HFValidationError):
        return {}
    files = [path for path in sorted(folder.iterdir()) if path.suffix in MODEL_FILES and path.is_file()]
    return {path.name: fingerprint_file(path) for path in files}


def check_pairs_unchanged(
    output_dir: Path, new: Sequence[Mapping[str, Any]], state: Mapping[str, Any], seed: int
) -> None:
    """Compare the pairs with those that the run was begun with. Raises RunFolderError that names the first difference.

    An image that no game has shown may change, so that a broken one that stopped the run can be repaired.
    """
    file = output_dir / run_folder.PAIRS
    if not file.is_file():
        print(f"{file} is not there (the run is of an earlier version): pairs are not compared", file=sys.stderr)
        return
    old = run_folder.read_json_lines(file, "id", "domain", "images")
    was, are = [line["id"] for line in old], [line["id"] for line in new]
    if was != are:
        number = next(i for i, (one, other) in enumerate(zip_longest(was, are)) if one != other)
        gone, more = sorted(set(was) - set(are)), sorted(set(are) - set(was))
        kinds = [f"{len(ids)} {kind} (as {ids[0]!r})" for ids, kind in ((gone, "removed"), (more, "added")) if ids]
        raise RunFolderError(
            f"the run was begun with {len(was)} image pairs, now there are {len(are)}: "
            + (" and ".join(kinds) or f"in another order (pair {number + 1} was {was[number]!r}, is {are[number]!r})")
            + f". Which pairs its games are dealt depends on that: {PUT_BACK}"
        )
    changed = [row for row, (one, other) in enumerate(zip(old, new, strict=True)) if _differ(one, other)]
    played = {pair_of_game(seed, game, len(old)) for game in range(state.get("games_dealt", 0))}
    played -= set(state.get("bad_images", []))
    elsewhere = {image for row in changed for image in new[row]["images"]}
    for row in changed:
        swapped = elsewhere & set(old[row]["images"]) - set(new[row]["images"])
        if row in played or swapped or new[row]["domain"] != old[row]["domain"]:
            raise RunFolderError(
                f"{len(changed)} image pairs are not those that the run was begun with, as {was[row]!r}: {PUT_BACK}"
            )
    for row in changed:
        print(f"pair {was[row]!r} has another image than when the run was begun; no game has shown it", file=sys.stderr)


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if two lines do not tell of the same pair. An empty fingerprint is of what was not looked at."""
    if one["domain"] != other["domain"] or len(one["images"]) != len(other["images"]):
        return True
    return any(was and now and was != now for was, now in zip(one["images"], other["images"], strict=True))


def check_model_unchanged(output_dir: Path, name: str, now: Mapping[str, str]) -> None:
    """Raises RunFolderError for a file that is not the one the run was begun with."""
    file = output_dir / run_folder.MODEL
    if not file.is_file():
        print(f"{file} is not there (the run is of an earlier version): the model is not compared", file=sys.stderr)
        return
    try:
        old = dict(json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{file} is damaged: {error}; {PUT_BACK}") from error
    both, either = old.keys() & now.keys(), old.keys() | now.keys()
    names = both | {one for one in either if Path(name).is_dir() and "/" not in one}  # a cache is filled by parts
    if other := sorted(one for one in names if old.get(one) != now.get(one)):
        what = other[0] if "/" in other[0] else f"model {name}: {other[0]}"
        raise RunFolderError(f"{what} is not as it was when the run was begun, which is held against it: {PUT_BACK}")


def write_inputs(output_dir: Path, pairs: Sequence[Mapping[str, Any]], model: Mapping[str, str]) -> None:
    run_folder.write_json_lines(output_dir / run_folder.PAIRS, pairs)
    if model or not (output_dir / run_folder.MODEL).is_file():
        run_folder.write_json(output_dir / run_folder.MODEL, model)
