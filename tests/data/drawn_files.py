"""Drawn pairs as files, for tests that read folders."""

import json
from pathlib import Path

from vision_zero.data.drawn_scenes import DrawnScene, comparison, draw, scenes_of


def write_pairs(folder: str | Path, n: int, seed: int, size: int = 112) -> None:
    """Pairs `seed` to `seed + n - 1` as files: NAME_original.png, NAME_modified.png, scenes/NAME_comparison.json."""
    folder = Path(folder)
    (folder / "scenes").mkdir(parents=True, exist_ok=True)
    for number in range(n):
        name = f"drawn_{number:03d}"
        original, edited = scenes_of(seed + number)
        draw(original, size).save(folder / f"{name}_original.png", optimize=True)
        draw(edited, size).save(folder / f"{name}_modified.png", optimize=True)
        text = json.dumps(comparison(original, edited, size), indent=1)
        (folder / "scenes" / f"{name}_comparison.json").write_text(text + "\n", encoding="utf-8")


def changed_objects(original: DrawnScene, edited: DrawnScene) -> list[int]:
    pairs = zip(original.objects, edited.objects, strict=True)
    return [index for index, (before, after) in enumerate(pairs) if before != after]
