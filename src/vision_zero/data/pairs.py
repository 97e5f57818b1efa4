"""Read image pairs of any layout, split them into training and held-out pairs, open and check them.

`load_pairs` checks names and structure and opens no image: a million pairs are listed in a minute. Images are opened
one pair at a time by `open_pair`; `check_pairs` opens a sample. The readers are `folders`, `manifest` (JSONL),
`hf_datasets` and `drawn_scenes`.
"""

import os
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, cast

from PIL import Image

from vision_zero.data import hf_datasets
from vision_zero.data.drawn_scenes import is_drawn, read_drawn
from vision_zero.data.errors import BadImageError, PairSourceError
from vision_zero.data.folders import CONTACT_SHEET, MANIFEST_NAME, as_on_disk, is_image_name, read_folder, unused, walk
from vision_zero.data.hf_datasets import ALL, Columns, DatasetImage, TablePairs, read_columns
from vision_zero.data.image_files import DARK, ImageFile
from vision_zero.data.lazy_pairs import LazyPairs, listed, mixed
from vision_zero.data.manifest import Folder, read_manifest
from vision_zero.data.pairing import NONE, find_pairs
from vision_zero.types import DOMAINS, Domain, ImagePair

if TYPE_CHECKING:
    import datasets

__all__ = ["BadImageError", "DatasetImage", "ImageFile", "LazyPairs", "PairSourceError"]  # imported from here too

OneSource: TypeAlias = Union[str, Path, "datasets.Dataset"]
Source: TypeAlias = OneSource | Sequence[OneSource]
ColumnNames: TypeAlias = Sequence[str] | Mapping[str, str]
Split: TypeAlias = Literal["train", "heldout"]
Bar = Callable[[Sequence[Any]], Iterable[Any]]
"""What shows how far a loop over a sequence has come, such as `tqdm`; `iter` shows nothing."""

MAX_ASPECT_DIFFERENCE = 0.02
"""An edited image of another size is resized to the original's if their width / height differ by at most this share."""


def load_pairs(
    source: Source,
    *,
    columns: ColumnNames | None = None,
    split: Split | None = None,
    holdout: float = 0.0,
    seed: int = 0,
    scenes: str | Path | None = None,
    pair_by: str | None = None,
    dataset_split: str | None = None,
) -> LazyPairs:
    """The pairs of a source, in an order that does not depend on the file system. No image is opened.

    `source` is a folder of files, a JSONL manifest, a local data set folder or parquet file, a `datasets.Dataset`,
    `drawn:COUNT`, or a list of these, whose ids begin with the names of their folders; docs/data.md has the layouts,
    domains, and what `columns`, `scenes`, `pair_by` and `dataset_split` (of a data set) mean.

    `split` takes the train or the held-out part: `holdout` is the held-out share, drawn from `seed` over the order of
    the pairs, so the same source gives the same parts. Raises PairSourceError for anything that does not fit.
    """
    sources = _as_list(source)
    named, described = None if columns is None else read_columns(columns), None if scenes is None else Path(scenes)
    parts = [_read(one, named, described, pair_by, dataset_split) for one in sources]
    for one, part in zip(sources, parts, strict=True):
        if not len(part):
            raise PairSourceError(f"{_describe([one])}: no pairs")
        if pair_by and part.layout not in ("pairs", "images") and (pair_by != NONE or part[0].edited):
            part.notes += (f"{_describe([one])}: --pair_by {pair_by} is not used: it is a {part.layout}, no folder",)
    layouts = {part.layout for part in parts}
    if columns is not None and not layouts & {"data set", "manifest"}:
        raise PairSourceError(f"columns were given, but {_describe(sources)} has none ({', '.join(sorted(layouts))})")
    if scenes is not None and "pairs" not in layouts:
        raise PairSourceError(f"scenes were given, but {_describe(sources)} is no folder of NAME_original.* files")
    if dataset_split not in (None, ALL) and "data set" not in layouts:
        raise PairSourceError(f"--split {dataset_split} was given, but {_describe(sources)} has no splits")
    if pair_by not in (None, NONE) and "images" in layouts and "pairs" not in layouts:
        raise PairSourceError(f"--pair_by {pair_by} was given, but no image of {_describe(sources)} is called so")
    pairs = parts[0] if len(parts) == 1 else mixed(_source_names(sources), parts)
    return _take_split(pairs, split, holdout, seed)


def _as_list(source: Source) -> list[OneSource]:
    if isinstance(source, (str, Path)) or hf_datasets.is_dataset(source) or isinstance(source, Mapping):
        return [cast("OneSource", source)]
    if not isinstance(source, Sequence):
        raise PairSourceError(f"a source is a path, a datasets.Dataset or a list of these, got {type(source).__name__}")
    if not source:
        raise PairSourceError("the list of sources is empty")
    return list(source)


def _read(
    source: OneSource, columns: Columns | None, scenes: Path | None, pair_by: str | None, split: str | None
) -> LazyPairs:
    if not isinstance(source, (str, Path)):
        if not hf_datasets.is_dataset(source) and not isinstance(source, Mapping):
            raise PairSourceError(f"a source is a path or a datasets.Dataset, got {type(source).__name__}")
        dataset, notes = hf_datasets.choose_split(source, "the data set", split)
        return TablePairs(dataset, columns, "photos", "the data set", notes=notes)
    if is_drawn(source):
        return read_drawn(str(source))
    domain, path = _split_domain(source)
    path = as_on_disk(path)
    if not os.path.exists(path):
        unknown = domain is None and ":" in str(source)
        known = f"; a domain before the colon is one of {', '.join(DOMAINS)}" if unknown else ""
        raise PairSourceError(f"{path}: no such file or folder{known}")
    manifest = path / MANIFEST_NAME if path.is_dir() else path
    if hf_datasets.is_dataset_path(path):
        folder = Folder(path.parent if path.is_file() else path)
        dataset, notes = hf_datasets.load_local(path, split)
        table = TablePairs(dataset, columns, domain or "photos", str(path), folder, notes)
        single = path.is_dir() and columns is None and "edited" not in table.columns and pair_by != NONE
        found = find_pairs(path, list(filter(is_image_name, walk(path))), pair_by) if single else None
        if found is None:
            return table
        if pair_by is None:
            raise PairSourceError(
                f"{path}: its table names single images (--pair_by none), and they may be pairs {found} ({found.flag})"
            )
        listing = read_folder(path, scenes, pair_by)
    elif manifest.is_file() and manifest.suffix.lower() == ".jsonl":
        listing = read_manifest(manifest, columns)
        images = filter(is_image_name, walk(path)) if path.is_dir() else ()  # a file by itself is all that was given
        listing = replace(listing, notes=unused(path, images, {CONTACT_SHEET}, listing.pairs))
    elif path.is_dir():
        listing = read_folder(path, scenes, pair_by)
    else:
        raise PairSourceError(f"{path}: a source is a folder, a .jsonl manifest or a .parquet file")
    return listed(listing, domain or listing.domain)


def source_options(config: Mapping[str, Any]) -> dict[str, Any]:
    names = {"columns": "columns", "scenes": "scenes_dir", "pair_by": "pair_by", "dataset_split": "split"}
    return {name: config.get(option) or None for name, option in names.items()}


def _split_domain(source: str | Path) -> tuple[Domain | None, Path]:
    """("scenes", PATH) of "scenes:PATH"; None for a path without a domain."""
    prefix, colon, rest = str(source).partition(":")
    domain = prefix if colon and prefix in DOMAINS else None
    path = rest if domain else str(source)
    if not path:  # an unset variable of a script; Path("") would be the current folder
        raise PairSourceError(f"the path of the source {str(source)!r} is empty")
    return domain, Path(path)


def _describe(sources: Sequence[OneSource]) -> str:
    return ", ".join(str(one) if isinstance(one, (str, Path)) else "a data set" for one in sources)


def _source_names(sources: Sequence[OneSource]) -> list[str]:
    """The shortest ends of the sources' paths that tell them apart; `dataset0`, `dataset1` ... without a path."""
    paths = [_split_domain(one)[1] if isinstance(one, (str, Path)) else None for one in sources]
    parts = [
        (f"dataset{number}",) if path is None else path.resolve().with_suffix("").parts
        for number, path in enumerate(paths)
    ]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise PairSourceError(f"a source is given twice: {_describe(sources)}")


def _take_split(pairs: LazyPairs, split: Split | None, holdout: float, seed: int) -> LazyPairs:
    if not 0 <= holdout < 1:
        raise PairSourceError(f"holdout must be at least 0 and below 1, got {holdout}")
    if split is None:
        return pairs
    if split not in ("train", "heldout"):
        raise PairSourceError(f'split must be "train" or "heldout", got {split!r}')
    n_heldout = round(holdout * len(pairs))
    if not 0 < n_heldout < len(pairs):
        raise PairSourceError(
            f"split={split} needs a holdout that leaves pairs on both sides: "
            f"{holdout} of {len(pairs)} pairs is {n_heldout}; give another --holdout, or --holdout 0 --arena_every 0"
        )
    heldout = set(random.Random(seed).sample(range(len(pairs)), n_heldout))
    rows = array("Q", (row for number, row in enumerate(pairs.rows) if (number in heldout) == (split == "heldout")))
    return LazyPairs(pairs.layout, pairs.pair_at, rows, pairs.notes)


def open_pair(pair: ImagePair) -> tuple[Image.Image, Image.Image | None]:
    """The original and, if there is one, the edited image, RGB and of the original's size. Raises BadImageError."""
    image = pair.image.open()
    if pair.edited is None:
        return image, None
    edited = pair.edited.open()
    if edited.size == image.size:
        return image, edited
    narrow, wide = sorted((edited.width * image.height, edited.height * image.width))
    if wide - narrow > MAX_ASPECT_DIFFERENCE * narrow:
        raise BadImageError(
            f"{pair.edited.name} is {edited.width}x{edited.height} but {pair.image.name} is "
            f"{image.width}x{image.height}: the aspect ratios of a pair may differ by {MAX_ASPECT_DIFFERENCE:.0%}"
        )
    return image, edited.resize(image.size, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class BadPair:
    id: str
    reason: str


@dataclass(frozen=True)
class PairReport:
    """Result of `check_pairs`. `sizes`: (width, height) of the smallest, median and largest original that opened."""

    n_pairs: int
    n_edited: int
    domains: Mapping[Domain, int]
    n_opened: int
    n_identical: int
    sizes: Sequence[tuple[int, int]]
    bad: tuple[BadPair, ...]
    notes: tuple[str, ...] = ()


def check_pairs(
    pairs: Sequence[ImagePair], sample: int | None = 64, seed: int = 0, bar: Bar = iter, collect: bool = False
) -> PairReport:
    """Count the pairs and open `sample` of them, drawn from `seed` (None: all). Structure was checked at loading.

    Raises BadImageError at the first bad pair, or lists all in the report with `collect`. `n_identical` counts opened
    pairs whose two images are equal in every pixel. `notes` has a line for the user about images that may be too dark.
    """
    n_edited = n_identical = 0
    domains: Counter[Domain] = Counter()
    for pair in pairs:
        n_edited += pair.edited is not None
        domains[pair.domain] += 1
    rows = sample_rows(len(pairs), sample, seed)
    sizes: list[tuple[int, int]] = []
    bad: list[BadPair] = []
    dark: list[str] = []
    for row in bar(rows):
        try:
            image, edited = open_pair(pairs[row])
        except BadImageError as error:
            if not collect:
                raise
            bad.append(BadPair(pairs[row].id, str(error)))
        else:
            sizes.append(image.size)
            dark += [pairs[row].id for one in (image, edited) if one and one.info.get(DARK)]
            n_identical += edited is not None and image.tobytes() == edited.tobytes()
    sizes.sort(key=lambda size: (size[0] * size[1], size))
    shown = [sizes[at] for at in (0, len(sizes) // 2, -1) if sizes]
    by_domain = dict(sorted(domains.items()))
    told = f"{len(dark)} images of {len(sizes)} opened pairs have all values {DARK} (first: {''.join(dark[:1])}): they "
    told += "look dark; if their values have fewer bits, as 12, save them with 8"
    counts = (len(pairs), n_edited, by_domain, len(sizes), n_identical)
    return PairReport(*counts, shown, tuple(bad), (told,) * bool(dark))


def sample_rows(n_pairs: int, sample: int | None, seed: int) -> list[int]:
    """Positions of a sample without replacement, in order; all of them for None or a sample as large."""
    if sample is None or sample >= n_pairs:
        return list(range(n_pairs))
    return sorted(random.Random(seed).sample(range(n_pairs), sample))
