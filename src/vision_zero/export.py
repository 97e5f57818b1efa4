"""Write a checkpoint as a portable model: `python -m vision_zero.export runs/mine/checkpoint-100 exported/`."""

import argparse
import json
import shutil
import sys
from pathlib import Path

from vision_zero import models
from vision_zero.models.hub import WEIGHT_PATTERNS
from vision_zero.rollout.stopping import end_with_reader
from vision_zero.run_folder import CONFIG, EXPORT, EXPORTED, is_complete, mark_complete

NOT_COPIED = (*WEIGHT_PATTERNS, ".*", "README.md", "*.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint-N folder of a run, full or LoRA")
    parser.add_argument("target", type=Path, nargs="?", help="the folder to write, new or empty")
    parser.add_argument("--base", help="base model, if the checkpoint does not say which it was trained from")
    options = parser.parse_args()
    try:
        if (options.checkpoint / CONFIG).is_file():
            raise ValueError(
                f"{options.checkpoint} is a run; give one of {', '.join(models.find_models([options.checkpoint]))}"
            )
        if options.target is None:
            raise ValueError(f"no folder to write to: python -m vision_zero.export {options.checkpoint} FOLDER")
        models.check_saved(options.checkpoint)
        check_target(options.target)
        print(export_checkpoint(options.checkpoint, options.target, options.base))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def check_target(target: Path) -> None:
    """Raises ValueError for what is there already, and for a place where an export would be lost or be in the way."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise ValueError(f"{target} is there already; give a new folder, or remove it first")
    target = target.resolve()
    if any(is_complete(folder) for folder in target.parents):
        raise ValueError(f"{target} is inside a checkpoint, which would no longer be what was saved")
    if models.step_of(str(target)) is not None and any((folder / CONFIG).is_file() for folder in target.parents[:2]):
        raise ValueError(f"{target} would be taken for a checkpoint of the run, not saved whole; give another name")


def export_checkpoint(checkpoint: Path, target: Path, base: str | None = None) -> Path:
    """Write `checkpoint` (full or LoRA, as training saved it) to `target` in the layout of its base model.

    LoRA adapters are merged. `target` appears whole or not at all. Raises FileNotFoundError when the base is unknown,
    and ValueError for damaged files.
    """
    base_path = models.base_folder(base or models.base_of(checkpoint))
    config = json.loads((base_path / "config.json").read_text("utf-8"))
    published = str(config.get("torch_dtype") or config.get("dtype") or "float32").removeprefix("torch.")
    model = models.load_merged(checkpoint, base_path, dtype=published)
    temporary = target.with_name(f".{target.name}.vision_zero.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    if models.transposed_by_loading(model):
        weights = dict(models.in_hub_layout(model, model.state_dict().items()))
        model.save_pretrained(temporary, state_dict=weights, save_original_format=False)
    else:
        model.save_pretrained(temporary)
    for path in temporary.iterdir():
        if not any(path.match(pattern) for pattern in WEIGHT_PATTERNS):
            path.unlink()
    for path in sorted(base_path.iterdir()):
        if path.is_file() and not any(path.match(pattern) for pattern in NOT_COPIED):
            shutil.copyfile(path, temporary / path.name)
    for path in temporary.iterdir():
        path.chmod(0o644)
    temporary.chmod(0o755)
    if target.name == EXPORT and is_complete(target.parent):
        mark_complete(temporary, target.parent / EXPORTED)
    # An export that is there is moved away whole before it is removed: a kill in between leaves no half of it.
    replaced = target.with_name(f".{target.name}.vision_zero.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists() and target.name == EXPORT:
        target.rename(replaced)
    temporary.rename(target)  # fails where something else is there by now
    shutil.rmtree(replaced, ignore_errors=True)
    return target


if __name__ == "__main__":
    end_with_reader()
    main()
