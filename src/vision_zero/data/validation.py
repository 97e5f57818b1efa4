"""Open a pair, with the rule for its two sizes, and check a sample of pairs before a run."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vision_zero.data.errors import BadImageError
from vision_zero.data.image_files import DARK
from vision_zero.types import Domain, ImagePair

Bar = Callable[[Sequence[Any]], Iterable[Any]]
"""What shows how far a loop over a sequence has come, such as `tqdm`; `iter` shows nothing."""

MAX_ASPECT_DIFFERENCE = 0.02
"""An edited image of another size is resized to the original's if their width / height differ by at most this share."""


def open_pair(pair: ImagePair) -> tuple[Image.Image, Image.Image | None]:
    """The original and, if there is one, the edited image, both RGB and of the original's size.

    An edited image of another size is resized (Lanczos) if the two aspect ratios differ by at most
    MAX_ASPECT_DIFFERENCE. Raises BadImageError with both names and sizes otherwise, and for a bad image.
    """
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
    if sample < 0:
        raise ValueError(f"sample must not be negative, got {sample}")
    return sorted(random.Random(seed).sample(range(n_pairs), sample))
