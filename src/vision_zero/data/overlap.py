"""Which pairs of one source are in another: what a model was trained on says nothing about what it learnt."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import abspath

from vision_zero.types import ImagePair


def shared_ids(some: Iterable[ImagePair], others: Iterable[ImagePair]) -> list[str]:
    """Ids of those of `some` whose image is one of `others`' too, by the names of images: no image is opened.

    An id is no such name: two folders may both have a photo_1, and a list of sources puts theirs in front.
    """
    ids = {abspath(pair.image.name): pair.id for pair in some}
    shared = {ids[name] for name in (abspath(pair.image.name) for pair in others) if name in ids}
    return sorted(shared)
