"""Read the layouts of image files on disk into lists of paths. No image is opened.

| layout | how it is recognised |
|---|---|
| manifest | a `.jsonl` file, or a folder that holds `manifest.jsonl` |
| CLEVR | a folder with `images/` and a scene file `{"info", "scenes": [...]}` in it or in its `scenes/` |
| ChartQA | a folder with `png/` and `tables/` |
| pairs | a folder in which images are called `NAME_original.*` and `NAME_modified.*`, or otherwise paired (`pairing`) |
| images | any other folder with images, recursively |

Hidden files and folders (a leading dot) are left out; what else is not read is counted in `Listing.notes`. Orders are
those of sorted names or of the manifest's lines, never the file system's.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from vision_zero.data.errors import LFS_ADVICE, PairSourceError, is_lfs_pointer, shorten
from vision_zero.data.image_files import IMAGE_EXTENSIONS
from vision_zero.data.pairing import DOCUMENTED, find_pairs
from vision_zero.types import Domain

MANIFEST_NAME = "manifest.jsonl"
CONTACT_SHEET = "sheet.jpg"
"""Beside the manifest of a maker of pairs."""


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
    """Pairs of a source in order, its layout's name, the folder of their paths, and `notes`: lines for the user."""

    layout: str
    root: Path
    pairs: Sequence[PairPaths]
    domain: Domain
    notes: tuple[str, ...] = ()


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


def read_folder(root: Path, scenes: Path | None, pair_by: str | None = None) -> Listing:
    """The pairs of a folder of files. `scenes` is the folder of NAME_comparison.json of a folder of pairs.

    `pair_by` is that of `pairing.find_pairs`. Raises PairSourceError for a folder without images, with files that do
    not fit together, or that can be read in several ways.
    """
    files = walk(root)
    if (root / "images").is_dir():
        scene_files = _clevr_scene_files(root)
        if scene_files:
            rows = _read_clevr(root, scene_files, files)
            used = {path.relative_to(root).as_posix() for path in scene_files}
            return Listing("CLEVR", root, rows, "scenes", unused(root, files, used, rows))
        if scenes is None and any((root / "scenes").glob("*.json")):
            raise PairSourceError(
                f"{root / 'scenes'}: no *_scenes.json that lists the scenes of images/, as CLEVR has; for pairs with a "
                f"NAME_comparison.json each, the source is {root / 'images'} and scenes is {root / 'scenes'}"
            )
    if (root / "png").is_dir() and (root / "tables").is_dir():
        rows, tables = _read_chartqa(root, files)
        return Listing("ChartQA", root, rows, "charts", unused(root, files, tables, rows))
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
    reading = find_pairs(root, images, pair_by)
    if reading is None:
        rows = [PairPaths(name, name) for name in images]
        return Listing("images", root, rows, "photos", unused(root, files, set(), rows))
    pairs = reading.pairs()
    described = _comparisons(root, sorted(pairs), files, scenes)
    rows = [PairPaths(name, *pairs[name], described.get(name)) for name in sorted(pairs)]
    beside = root if scenes is None else scenes
    used = {os.path.relpath(beside / f"{name}_comparison.json", root) for name in described}
    told = () if str(reading) == DOCUMENTED else (f"{root}: pairs are {reading}",)
    notes = (*told, *unused(root, files, used, rows))
    return Listing("pairs", root, rows, "scenes" if described else "photos", notes)


def unused(root: Path, files: Iterable[str], used: Set[str], rows: Sequence[PairPaths]) -> tuple[str, ...]:
    """A line that counts the `files` of a folder that are neither `used` nor images of `rows`; no line if all are."""
    shown = {name for row in rows for name in (row.image, row.edited)}
    left = [name for name in files if name not in used and name not in shown]
    if not left:
        return ()
    kinds = Counter(os.path.splitext(name)[1].lower() or "without an extension" for name in left)
    named = shorten([f"{count} {kind}" for kind, count in kinds.most_common()], 8)
    return (f"{root}: {len(left)} file{'s' * (len(left) > 1)} not used: {named} (first: {left[0]})",)


def walk(root: Path) -> list[str]:
    """All files under `root`, sorted, as relative paths with `/`; follows links to folders. Raises PairSourceError."""
    found: list[str] = []
    seen: set[str] = set()
    folders = [""]
    while folders:
        prefix = folders.pop()
        folder = os.path.join(root, prefix) if prefix else str(root)
        real = os.path.realpath(folder)
        if real not in seen:  # a link back to a folder above it would never end
            seen.add(real)
            for name, is_folder in _list_folder(folder):
                if is_folder:
                    folders.append(f"{prefix}{name}/")
                else:
                    found.append(prefix + name)
    return sorted(found)


def is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises PairSourceError with the path and the line."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return json.load(stream)
    except json.JSONDecodeError as error:
        if is_lfs_pointer(path):
            raise PairSourceError(f"{path} {LFS_ADVICE}") from error
        raise PairSourceError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise PairSourceError(f"{path}: cannot be read: {error}") from error


def as_on_disk(path: Path) -> Path:
    """`path`, or the file whose name has another Unicode form: archives of a Mac have letters and accents apart."""
    if os.path.exists(path) or path == path.parent:
        return path
    parent, wanted = as_on_disk(path.parent), normalize("NFC", path.name)
    with suppress(OSError, ValueError):
        return next((parent / name for name in sorted(os.listdir(parent)) if normalize("NFC", name) == wanted), path)
    return path


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


def _comparisons(
    root: Path, names: Sequence[str], files: Sequence[str], scenes: Path | None
) -> dict[str, Mapping[str, Any]]:
    """Scene descriptions by pair. If `scenes` is given, every pair must have one."""
    folder = root if scenes is None else scenes
    present = frozenset(files if scenes is None else walk(scenes))
    found = {n: LazyJson(path=str(folder / f"{n}_comparison.json")) for n in names if f"{n}_comparison.json" in present}
    missing = [f"{name}_comparison.json" for name in names if name not in found]
    if scenes is not None and missing:
        raise PairSourceError(f"{scenes}: no scene description for pairs of {root}: {shorten(missing)} missing")
    return dict(found)


def _by_stem(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """File names by themselves without extension, in one Unicode form."""
    stems: dict[str, str] = {}
    for name in names:
        other = stems.setdefault(normalize("NFC", os.path.splitext(name)[0]), name)
        if other != name:
            raise PairSourceError(f"{folder}: two files of one name: {other} and {name}")
    return stems


def _below(folder: str, files: Sequence[str]) -> list[str]:
    return [name.removeprefix(f"{folder}/") for name in files if name.startswith(f"{folder}/")]


def _read_chartqa(root: Path, files: Sequence[str]) -> tuple[list[PairPaths], set[str]]:
    """The charts, and the files of their tables."""
    charts = _by_stem(root / "png", filter(is_image_name, _below("png", files)))
    tables = _by_stem(root / "tables", (name for name in _below("tables", files) if name.lower().endswith(".csv")))
    for name in sorted(charts.keys() - tables.keys()):
        raise PairSourceError(f"{root / 'png' / charts[name]}: its table {root / 'tables' / name}.csv is missing")
    for name in sorted(tables.keys() - charts.keys()):
        raise PairSourceError(f"{root / 'tables' / tables[name]}: its chart {root / 'png' / name}.png is missing")
    if not charts:
        raise PairSourceError(f"{root}: no charts in png/ and no tables in tables/")
    rows = [
        PairPaths(os.path.splitext(chart)[0], f"png/{chart}", meta={"table": str(root / "tables" / tables[name])})
        for name, chart in charts.items()
    ]
    return sorted(rows, key=lambda row: row.id), {f"tables/{name}" for name in tables.values()}


def _clevr_scene_files(root: Path) -> list[Path]:
    """Files that list many scenes. The generator's files of one scene each, in scenes/, are not read."""
    beside = sorted(path for path in root.glob("*.json") if "scene" in path.name.lower())
    within = sorted((root / "scenes").glob("*_scenes.json")) if (root / "scenes").is_dir() else []
    return beside or within


def _read_clevr(root: Path, scene_files: Sequence[Path], files: Sequence[str]) -> list[PairPaths]:
    present = {normalize("NFC", name): name for name in _below("images", files) if is_image_name(name)}
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
            described = LazyJson(text=json.dumps(scene))
            rows[image] = PairPaths(os.path.splitext(image)[0], f"images/{image}", meta=described)
    named = {os.path.dirname(image) for image in rows}
    # CLEVR's test images come without scenes, so only folders that some scene names must be described wholly.
    for image in sorted(set(present.values()) - rows.keys()):
        if os.path.dirname(image) in named:
            raise PairSourceError(f"{root / 'images' / image}: no scene in {shorten([p.name for p in scene_files])}")
    if not rows:
        raise PairSourceError(f"{shorten([str(path) for path in scene_files])}: no scenes")
    _by_stem(root / "images", sorted(rows))
    return [rows[image] for image in sorted(rows)]


def _clevr_image(path: Path, number: int, scene: Any, split: str, present: Mapping[str, str]) -> str:
    """Path of the scene's image under images/: CLEVR's release sorts images by split, its generator does not."""
    name = scene.get("image_filename") if isinstance(scene, dict) else None
    if not isinstance(name, str):
        raise PairSourceError(f"{path}, scene {number}: no image_filename")
    for candidate in (name, f"{scene.get('split', split)}/{name}"):
        if image := present.get(normalize("NFC", candidate)):
            return image
    raise PairSourceError(f"{path}, scene {number}: the image {name} is not in images/")
