"""Failed edits as a named noise: a share of the edited images is blank or the original itself.

Paper (arXiv 2509.25541): data with 10% blank and 10% identical edits trains nearly as well as clean data.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from vision_zero.data.errors import PairSourceError
from vision_zero.data.lazy_pairs import LazyPairs
from vision_zero.types import FailedEdit, ImagePair, ImageSource

GREY = (127, 127, 127)


def failed_edit(pair_id: str, share: float, seed: int) -> FailedEdit | None:
    """The failure of this pair's edit by the arguments alone, or None; at a larger `share` no pair is spared."""
    draw = random.Random(f"vision-zero/failed-edit/{seed}/{pair_id}")
    fails, kind = draw.random() < share, draw.random()
    if not fails:
        return None
    return "blank" if kind < 0.5 else "identical"


@dataclass(frozen=True)
class BlankOf:
    original: ImageSource

    @property
    def name(self) -> str:
        return f"blank in place of the edit of {self.original.name}"

    def open(self) -> Image.Image:
        return Image.new("RGB", self.original.open().size, GREY)


def with_failed_edit(pair: ImagePair, kind: FailedEdit | None) -> ImagePair:
    if kind is None:
        return pair
    return replace(pair, edited=BlankOf(pair.image) if kind == "blank" else pair.image, failed_edit=kind)


class PairsWithFailedEdits(LazyPairs):
    """Pairs, a share of the edits failed; `meta` stays. Raises PairSourceError for a share outside 0..1."""

    def __init__(self, pairs: Sequence[ImagePair], share: float, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise PairSourceError(f"failed_edits (share of the edited pairs) must be in 0..1, got {share}")
        super().__init__("pairs with failed edits", self._pair_at, range(len(pairs)))
        self._pairs, self._share, self._seed = pairs, share, seed

    def _pair_at(self, row: int) -> ImagePair:
        pair = self._pairs[row]
        return pair if pair.edited is None else with_failed_edit(pair, failed_edit(pair.id, self._share, self._seed))

    def counts(self) -> dict[FailedEdit, int]:
        kinds = [pair.failed_edit for pair in self]
        return {"blank": kinds.count("blank"), "identical": kinds.count("identical")}
