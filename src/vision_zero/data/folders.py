"""Read the layouts of image files on disk into lists of paths. No image is opened.

| layout | how it is recognised |
|---|---|
| manifest | a `.jsonl` file, or a folder that holds `manifest.jsonl` |
| CLEVR | a folder with `images/` and a scene file `{"info", "scenes": [...]}` in it or in its `scenes/` |
| ChartQA | a folder with `png/` and `tables/` |
| pairs | a folder in which an image is called `NAME_original.*` or `NAME_modified.*` |
| images | any other folder with images, recursively |

Hidden files and folders (a leading dot) are left out. Orders are those of sorted names or of the manifest's lines,
never the file system's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_zero.data.image_files import IMAGE_EXTENSIONS
from vision_zero.types import Domain

MANIFEST_NAME = "manifest.jsonl"


class PairSourceError(ValueError):
    """A source of image pairs is not laid out as it should be. The message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class PairPaths:
    """Paths of one pair, relative to the source's folder. Small, because there may be a million of them."""

    id: str
    image: str
    edited: str | None = None
    meta: Mapping[str, Any] | None = None
    domain: Domain | None = None


@dataclass(frozen=True)
class Listing:
    """Pairs of a source in order, with the name of its layout and the folder that the paths start from."""

    layout: str
    root: Path
    pairs: Sequence[PairPaths]
    domain: Domain


@dataclass(frozen=True, slots=True)
class LazyJson(Mapping[str, Any]):
    """A JSON object, parsed at each access. `text` is the JSON, or `path` the file that holds it.

    Access to a damaged file raises PairSourceError: training does not read it, so it does not stop for one.
    """

    text: str | None = None
    path: str | None = None

    def _object(self) -> dict[str, Any]:
        value = read_json(Path(str(self.path))) if self.text is None else json.loads(self.text)
        if not isinstance(value, dict):
            raise PairSourceError(f"{self.path}: expected a JSON object")
        return value

    def __getitem__(self, key: str) -> Any:
        return self._object()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._object())

    def __len__(self) -> int:
        return len(self._object())


def read_folder(root: Path, scenes: Path | None) -> Listing:
    """The pairs of a folder of files. `scenes` is the folder of NAME_comparison.json of a folder of pairs.

    Raises PairSourceError for a folder without images, or with files that do not fit together.
    """
    if (root / "images").is_dir():
        scene_files = _clevr_scene_files(root)
        if scene_files:
            return Listing("CLEVR", root, _read_clevr(root, scene_files), "scenes")
        if scenes is None and any((root / "scenes").glob("*.json")):
            raise PairSourceError(
                f"{root / 'scenes'}: no *_scenes.json that lists the scenes of images/, as CLEVR has; for pairs with a "
                f"NAME_comparison.json each, the source is {root / 'images'} and scenes is {root / 'scenes'}"
            )
    if (root / "png").is_dir() and (root / "tables").is_dir():
        return Listing("ChartQA", root, _read_chartqa(root), "charts")
    files = walk(root)
    images = [name for name in files if is_image_name(name)]
    if not files:
        raise PairSourceError(
            f"{root}: the folder is empty; it should hold images, pairs, a data set or {MANIFEST_NAME}"
        )
    if not images:
        extensions = sorted({os.path.splitext(name)[1] or "(no extension)" for name in files})
        known = " ".join(sorted(IMAGE_EXTENSIONS))
        raise PairSourceError(
            f"{root}: no images among {len(files)} files ({shorten(extensions, 8)}); known extensions: {known}"
        )
    if any(_pair_part(name) for name in images):
        return _read_pairs(root, images, frozenset(files), scenes)
    return Listing("images", root, [PairPaths(name, name) for name in images], "photos")


def walk(root: Path) -> list[str]:
    """All files under `root`, sorted, as relative paths with `/`. Follows links to folders, each folder once.

    Raises PairSourceError for a folder that cannot be listed or a file name that is not UTF-8.
    """
    found: list[str] = []
    seen: set[str] = set()
    folders = [""]
    while folders:
        prefix = folders.pop()
        folder = os.path.join(root, prefix) if prefix else str(root)
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above it would never end
            continue
        seen.add(real)
        for name, is_folder in _list_folder(folder):
            if is_folder:
                folders.append(f"{prefix}{name}/")
            else:
                found.append(prefix + name)
    return sorted(found)


def is_image_name(name: str) -> bool:
    """True if the file's extension, in any case, is one of IMAGE_EXTENSIONS."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises PairSourceError with the path and the line."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return json.load(stream)
    except json.JSONDecodeError as error:
        raise PairSourceError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise PairSourceError(f"{path}: cannot be read: {error}") from error


def shorten(names: Sequence[str], limit: int = 3) -> str:
    """The first few names for a message, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _list_folder(folder: str) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            # Sorted before links are followed, so that a folder that two links lead to is always found by the same.
            listed = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise PairSourceError(f"{folder}: cannot be listed: {error.strerror or error}") from error
    for name, _ in listed:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise PairSourceError(f"{folder}: the file name {name!r} is not UTF-8; rename it") from None
    return sorted(listed, reverse=True)


def _pair_part(name: str) -> tuple[str, str] | None:
    """(NAME, "original" or "modified") of NAME_original.png, None for other names."""
    match = re.fullmatch(r"(.*[^/])_(original|modified)", os.path.splitext(name)[0], re.DOTALL)
    return None if match is None else (match[1], match[2])


def _read_pairs(root: Path, images: Sequence[str], files: frozenset[str], scenes: Path | None) -> Listing:
    parts: dict[str, dict[str, str]] = {}
    for name in images:
        match = _pair_part(name)
        if match is None:
            raise PairSourceError(
                f"{root / name}: neither NAME_original nor NAME_modified, in a folder that holds such pairs; "
                "move it or rename it"
            )
        pair_name, part = match
        other = parts.setdefault(pair_name, {}).setdefault(part, name)
        if other != name:
            raise PairSourceError(f"{root}: two files for the {part} image of one pair: {other} and {name}")
    for pair_name, pair in parts.items():
        for part, partner in (("original", "modified"), ("modified", "original")):
            if partner not in pair:
                raise PairSourceError(f"{root / pair[part]}: its partner {pair_name}_{partner}.* is missing")
    comparisons = _comparisons(root, sorted(parts), files, scenes)
    rows = [
        PairPaths(name, parts[name]["original"], parts[name]["modified"], comparisons.get(name))
        for name in sorted(parts)
    ]
    return Listing("pairs", root, rows, "scenes" if comparisons else "photos")


def _comparisons(
    root: Path, names: Sequence[str], files: frozenset[str], scenes: Path | None
) -> dict[str, Mapping[str, Any]]:
    """Scene descriptions by pair. If `scenes` is given, every pair must have one."""
    folder = root if scenes is None else scenes
    present = files if scenes is None else frozenset(walk(scenes))
    found = {n: LazyJson(path=str(folder / f"{n}_comparison.json")) for n in names if f"{n}_comparison.json" in present}
    missing = [f"{name}_comparison.json" for name in names if name not in found]
    if scenes is not None and missing:
        raise PairSourceError(f"{scenes}: no scene description for pairs of {root}: {shorten(missing)} missing")
    return dict(found)


def _by_stem(folder: Path, names: Sequence[str]) -> dict[str, str]:
    stems: dict[str, str] = {}
    for name in names:
        other = stems.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise PairSourceError(f"{folder}: two files of one name: {other} and {name}")
    return stems


def _read_chartqa(root: Path) -> list[PairPaths]:
    charts = _by_stem(root / "png", [name for name in walk(root / "png") if is_image_name(name)])
    tables = _by_stem(root / "tables", [name for name in walk(root / "tables") if name.lower().endswith(".csv")])
    for name in sorted(charts.keys() - tables.keys()):
        raise PairSourceError(f"{root / 'png' / charts[name]}: its table {root / 'tables' / name}.csv is missing")
    for name in sorted(tables.keys() - charts.keys()):
        raise PairSourceError(f"{root / 'tables' / tables[name]}: its chart {root / 'png' / name}.png is missing")
    if not charts:
        raise PairSourceError(f"{root}: no charts in png/ and no tables in tables/")
    return [PairPaths(n, f"png/{charts[n]}", meta={"table": str(root / "tables" / tables[n])}) for n in sorted(charts)]


def _clevr_scene_files(root: Path) -> list[Path]:
    """Files that list many scenes. The generator's files of one scene each, in scenes/, are not read."""
    beside = sorted(path for path in root.glob("*.json") if "scene" in path.name.lower())
    within = sorted((root / "scenes").glob("*_scenes.json")) if (root / "scenes").is_dir() else []
    return beside or within


def _read_clevr(root: Path, scene_files: Sequence[Path]) -> list[PairPaths]:
    """One image per scene, with the scene as meta."""
    present = frozenset(name for name in walk(root / "images") if is_image_name(name))
    rows: dict[str, PairPaths] = {}
    for path in scene_files:
        content = read_json(path)
        scenes = content.get("scenes") if isinstance(content, dict) else None
        if not isinstance(scenes, list):
            raise PairSourceError(f'{path}: not a CLEVR scene file, which is {{"info": ..., "scenes": [...]}}')
        info = content.get("info")
        split = info.get("split", "") if isinstance(info, dict) else ""
        for number, scene in enumerate(scenes):
            image = _clevr_image(path, number, scene, split, present)
            if image in rows:
                raise PairSourceError(f"{path}, scene {number}: a second scene for images/{image}")
            # Kept as text: as Python objects the 70,000 scenes of CLEVR's training set take gigabytes.
            rows[image] = PairPaths(
                os.path.splitext(image)[0], f"images/{image}", meta=LazyJson(text=json.dumps(scene))
            )
    described = {os.path.dirname(image) for image in rows}
    # CLEVR's test images come without scenes, so only folders that some scene names must be described wholly.
    for image in sorted(present - rows.keys()):
        if os.path.dirname(image) in described:
            raise PairSourceError(f"{root / 'images' / image}: no scene in {shorten([p.name for p in scene_files])}")
    if not rows:
        raise PairSourceError(f"{shorten([str(path) for path in scene_files])}: no scenes")
    _by_stem(root / "images", sorted(rows))
    return [rows[image] for image in sorted(rows)]


def _clevr_image(path: Path, number: int, scene: Any, split: str, present: frozenset[str]) -> str:
    """Path of the scene's image under images/: CLEVR's release sorts images by split, its generator does not."""
    name = scene.get("image_filename") if isinstance(scene, dict) else None
    if not isinstance(name, str):
        raise PairSourceError(f"{path}, scene {number}: no image_filename")
    candidates = [name, f"{scene.get('split', split)}/{name}"]
    for candidate in candidates:
        if candidate in present:
            return candidate
    raise PairSourceError(f"{path}, scene {number}: the image {name} is not in images/")
