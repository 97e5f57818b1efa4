"""Maker of pairs of photographs: each is edited by a classical edit or by a learned editor.

Pair k is made of photograph k modulo their number. An edit that changes too little or too much is rejected, and the
next attempt draws another. A share of the edits can be made to fail on purpose, as a named noise.
"""

import argparse
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from PIL import Image

from vision_zero.config.game import add_options, beside
from vision_zero.data.errors import BadImageError, PairSourceError
from vision_zero.data.failed_edits import GREY, failed_edit
from vision_zero.data.pairs import load_pairs
from vision_zero.make_data.maker import EditedPair, Make, Maker, Rejected, changed_pixels, check_share, option_values
from vision_zero.make_data.photos import diffusion
from vision_zero.make_data.photos.diffusion import EDITORS, DiffusionEditor, OpenEditor
from vision_zero.make_data.photos.edits import Edit, mirror, paste, recolour_background, recolour_object
from vision_zero.make_data.photos.instructions import DEFAULT_TEMPLATES, read_instructions
from vision_zero.make_data.photos.segmentation import Pixels, box_of
from vision_zero.types import Domain, ImagePair

EditKind = Literal["recolour_object", "recolour_background", "paste", "mirror"]
EDIT_KINDS: tuple[EditKind, ...] = get_args(EditKind)

MIN_SIDE = 64  # least pixels of the shorter side: smaller photographs have no regions to edit


@dataclass(frozen=True)
class PhotoMaker(Maker):
    """Maker of pairs of photographs. Raises PairSourceError for invalid options.

    `photos` are sources that `load_pairs` reads. Photographs are shrunk into `size` (width, height), if it is given.
    With an `editor`, `instructions` is the file of its instructions and `edits` is not used.
    """

    photos: tuple[str, ...]
    edits: tuple[EditKind, ...] = EDIT_KINDS
    min_changed: float = 0.02
    max_changed: float = 0.6
    failed_edits: float = 0.0
    failed_edits_seed: int = 0
    size: tuple[int, int] | None = None
    editor: DiffusionEditor | None = None
    instructions: Path = DEFAULT_TEMPLATES
    max_attempts: int = 20
    pair_by: str | None = None
    split: str | None = None
    domain: Domain = field(default="photos", init=False)
    name: str = field(default="photo", init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.min_changed < self.max_changed <= 1:
            raise PairSourceError(
                "min_changed and max_changed are shares of the pixels with 0 <= min_changed < max_changed <= 1, got "
                f"{self.min_changed} and {self.max_changed}"
            )
        if not 0 <= self.failed_edits <= 1:
            raise PairSourceError(f"failed_edits (share of the edits) must be in 0..1, got {self.failed_edits}")
        unknown = [kind for kind in self.edits if kind not in EDIT_KINDS]
        if unknown or not self.edits:
            raise PairSourceError(f"edits must be some of {', '.join(EDIT_KINDS)}, got {', '.join(self.edits) or None}")
        if self.size is not None and min(self.size) < MIN_SIDE:
            raise PairSourceError(f"size: photographs need at least {MIN_SIDE} pixels a side, got {self.size}")

    @property
    def default_n(self) -> int:
        """One pair for each photograph. Raises PairSourceError for sources that cannot be read."""
        return len(self.sources())

    def sources(self) -> Sequence[ImagePair]:
        """The photographs, in order; none is opened."""
        return load_pairs(list(self.photos), pair_by=self.pair_by, dataset_split=self.split)

    def material(self) -> str:
        """Fingerprint of the photographs' names in order and of the instructions. Raises PairSourceError."""
        names = [pair.image.name for pair in self.sources()]
        told = read_instructions(self.instructions)
        return hashlib.sha256(repr((len(names), [Path(name).name for name in names], told)).encode()).hexdigest()[:16]

    @contextmanager
    def open(self) -> Iterator[Make]:
        cv2.setNumThreads(0)  # one thread: workers are processes, and pairs must not depend on a machine's cores
        pairs = self.sources()
        photograph = lru_cache(maxsize=4)(lambda row: _opened(pairs[row], self.size))  # attempts ask for the same one
        told = read_instructions(self.instructions)
        with nullcontext() if self.editor is None else self.editor.open() as editor:

            def make(rng: random.Random, number: int) -> EditedPair:
                photo, before = photograph(number % len(pairs))
                if editor is None:
                    edit = self._classical(photograph, len(pairs), number, rng)
                else:
                    edit = follow(editor, told.draw(photo, rng), before, rng)
                return self._checked(photo, before, edit, number)

            yield make

    def _classical(
        self, photograph: Callable[[int], tuple[str, Pixels]], count: int, number: int, rng: random.Random
    ) -> Edit:
        """An edit of a random kind. Half of the cut-outs are of the photograph itself; all, if it is the only one."""
        _, pixels = photograph(number % count)
        kind = rng.choice(self.edits)
        of_itself = {"recolour_object": recolour_object, "recolour_background": recolour_background, "mirror": mirror}
        if kind in of_itself:
            return of_itself[kind](pixels, rng, self.max_changed)
        same = count == 1 or rng.random() < 0.5
        source, other = photograph((number if same else number + rng.randrange(1, count)) % count)
        edit = paste(pixels, other, rng, same=same)
        return replace(edit, notes={**edit.notes, "source": source})

    def _checked(self, photo: str, before: Pixels, edit: Edit, number: int) -> EditedPair:
        """The pair. Raises Rejected if too little or too much has changed."""
        share = float(changed_pixels(before, edit.pixels).mean())
        check_share(share, (self.min_changed, self.max_changed), "no visible change", "everything changed")
        meta: dict[str, Any] = {"photo": photo, "edit": edit.kind, "instruction": edit.instruction}
        meta |= {"box": list(edit.box), "changed": round(share, 4), **edit.notes}
        original, edited = Image.fromarray(before), Image.fromarray(edit.pixels)
        failure = failed_edit(f"{self.name}_{number:06d}", self.failed_edits, self.failed_edits_seed)
        if failure is not None:
            meta["failed_edit"] = failure
            edited = Image.new("RGB", original.size, GREY) if failure == "blank" else original.copy()
        return EditedPair(original, edited, meta)


def follow(editor: OpenEditor, instruction: str, pixels: Pixels, rng: random.Random) -> Edit:
    """The edit of a learned editor. Raises ValueError if it returns an image of another size."""
    seed = rng.getrandbits(32)
    edited = np.asarray(editor(Image.fromarray(pixels), instruction, seed).convert("RGB"), np.uint8)
    if edited.shape != pixels.shape:
        raise ValueError(f"the editor must return the size that it was given: {edited.shape} is not {pixels.shape}")
    changed = changed_pixels(pixels, edited)
    if not changed.any():
        raise Rejected("no visible change")
    return Edit("instruction", edited, instruction, box_of(changed), {"editor_seed": seed})


def _opened(pair: ImagePair, size: tuple[int, int] | None) -> tuple[str, Pixels]:
    """Name and read-only pixels of a photograph, shrunk into `size`."""
    image = pair.image.open()
    if size is not None:
        image.thumbnail(size, Image.Resampling.LANCZOS, reducing_gap=None)
    if min(image.size) < MIN_SIDE:
        raise BadImageError(f"{pair.image.name}: {image.size} pixels, but editing needs {MIN_SIDE} a side")
    pixels = np.array(image, np.uint8)
    pixels.flags.writeable = False
    return pair.id, pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, beside(__file__), vars(PhotoMaker), edits=EDIT_KINDS)
    defaults = {f"editor_{name}": one for name, one in vars(DiffusionEditor).items()}
    add_options(parser, beside(diffusion.__file__), defaults, editor=("none", *EDITORS))


def from_arguments(args: argparse.Namespace) -> PhotoMaker:
    """The maker of parsed options, with its editor if there is one. Raises ValueError."""
    editor = None
    if args.editor != "none":
        told = ("model", "steps", "guidance", "image_guidance", "max_area", "use_cpu")
        editor = DiffusionEditor(args.editor, **option_values(args, *told, prefix="editor_"))
    names = ("photos", "min_changed", "max_changed", "failed_edits", "failed_edits_seed", "size", "instructions")
    return PhotoMaker(
        edits=tuple(dict.fromkeys(args.edits)), editor=editor, **option_values(args, *names, "pair_by", "split")
    )
