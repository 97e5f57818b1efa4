"""The maker of photographs: limits, rejects, failed edits on purpose, editors, the same bytes again."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vision_zero.data.failed_edits import failed_edit
from vision_zero.data.folders import PairSourceError
from vision_zero.data.image_files import BadImageError
from vision_zero.make_data.maker import EditedPair, Make, Rejected, changed_share
from vision_zero.make_data.photos.maker import EDIT_KINDS, PhotoMaker, add_arguments, from_arguments

PHOTOS = Path(__file__).resolve().parents[3] / "data" / "photos"


def maker(**options: object) -> PhotoMaker:
    return PhotoMaker(photos=(str(PHOTOS),), **options)  # type: ignore[arg-type]


def made(make: Make, number: int, attempts: int = 20, rejects: Counter[str] | None = None) -> EditedPair:
    """Pair `number` as the frame makes it: attempt after attempt, each with a generator of its own."""
    for attempt in range(attempts):
        try:
            return make(random.Random(f"test/{number}/{attempt}"), number)
        except Rejected as error:
            if rejects is not None:
                rejects[str(error)] += 1
    raise AssertionError(f"pair {number}: {attempts} attempts were rejected")


def digest(pair: EditedPair) -> str:
    both = pair.original.tobytes() + pair.edited.tobytes()
    return hashlib.sha256(both + repr(sorted(pair.meta.items())).encode()).hexdigest()


def pixels(image: Image.Image) -> np.ndarray:
    return np.array(image, np.uint8)


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_every_kind_stays_within_the_limits_and_says_what_it_did(kind: str) -> None:
    options = maker(edits=(kind,), min_changed=0.03, max_changed=0.55)
    with options.open() as make:
        # hedgehog.jpg, then sheep.jpg; the sheep's grass is more than may change, the sky of montStMichel.jpg is not
        for number in (3, 8 if kind == "recolour_background" else 14):
            pair = made(make, number)
            share = changed_share(pixels(pair.original), pixels(pair.edited))
            assert 0.03 <= share <= 0.55
            assert pair.meta["changed"] == pytest.approx(share, abs=1e-4)
            assert pair.meta["edit"] == kind
            assert pair.meta["instruction"]
            left, top, right, bottom = pair.meta["box"]
            assert 0 <= left < right <= pair.original.width
            assert 0 <= top < bottom <= pair.original.height
            assert pair.meta["photo"] == options.sources()[number].id
            assert pair.original.size == pair.edited.size


def test_pair_k_is_of_photograph_k_modulo_their_number() -> None:
    options = maker(edits=("recolour_object",))
    assert options.default_n == 16
    with options.open() as make:
        pair = made(make, 19)
    assert pair.meta["photo"] == options.sources()[3].id == "hedgehog.jpg"
    assert pair.original.tobytes() == options.sources()[3].image.open().tobytes()


PROGRAM = """
import hashlib, random
from vision_zero.make_data.maker import Rejected
from vision_zero.make_data.photos.maker import PhotoMaker
with PhotoMaker(photos=({photos!r},)).open() as make:
    for number in (7, 3, 0):
        for attempt in range(20):
            try:
                pair = make(random.Random(f"test/{{number}}/{{attempt}}"), number)
                break
            except Rejected:
                pass
        both = pair.original.tobytes() + pair.edited.tobytes()
        print(number, hashlib.sha256(both + repr(sorted(pair.meta.items())).encode()).hexdigest())
"""


def test_the_same_bytes_in_another_process_and_another_order() -> None:
    here = {}
    with pickle.loads(pickle.dumps(maker())).open() as make:
        for number in (0, 3, 7):
            here[str(number)] = digest(made(make, number))
    program = PROGRAM.format(photos=str(PHOTOS))
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PHOTOS.parents[1] / "src"
    )
    assert dict(line.split() for line in there.stdout.splitlines()) == here


def test_photographs_are_shrunk_to_fit_and_never_enlarged() -> None:
    with maker(edits=("recolour_object",), size=(200, 100)).open() as make:
        assert made(make, 0).original.size == (133, 100)  # cat.jpg is 320x240
    with maker(edits=("recolour_object",), size=(2000, 2000)).open() as make:
        assert made(make, 0).original.size == (320, 240)


def test_edits_that_change_too_little_or_too_much_are_rejected_by_name() -> None:
    """The limits are on what is seen: with impossible ones, every attempt is rejected and says why."""
    rejects: Counter[str] = Counter()
    with maker(edits=("recolour_object",), min_changed=0.59).open() as make, pytest.raises(AssertionError):
        made(make, 0, attempts=3, rejects=rejects)
    assert rejects.total() == 3
    assert set(rejects) <= {"no visible change", "no object stands out"}


def test_failed_edits_are_those_of_the_option_of_a_run() -> None:
    kinds_made = ("recolour_object",)
    plain, noisy = maker(edits=kinds_made), maker(edits=kinds_made, failed_edits=0.6, failed_edits_seed=3)
    kinds = Counter[str | None]()
    with plain.open() as make_plain, noisy.open() as make_noisy:
        for number in (0, 3, 5, 13, 14, 19):
            before, after = made(make_plain, number), made(make_noisy, number)
            kind = failed_edit(f"photo_{number:06d}", 0.6, 3)
            kinds[kind] += 1
            assert after.meta.get("failed_edit") == kind
            assert {**after.meta, "failed_edit": None} == {**before.meta, "failed_edit": None}
            if kind == "identical":
                assert after.edited.tobytes() == after.original.tobytes()
            elif kind == "blank":
                assert after.edited.getcolors() == [(after.original.width * after.original.height, (127, 127, 127))]
            else:
                assert digest(after) == digest(before)
    assert set(kinds) == {None, "blank", "identical"}


@dataclass(frozen=True)
class Inverting:
    """A real editor of the simplest kind: it inverts the left `share` of the image, whatever it is told."""

    share: float
    wrong_size: bool = False

    @contextmanager
    def open(self) -> Iterator[Inverting]:
        yield self

    def __call__(self, image: Image.Image, instruction: str, seed: int) -> Image.Image:
        assert instruction
        assert 0 <= seed < 2**32
        if self.wrong_size:
            return image.resize((8, 8))
        edited = image.copy()
        width = round(image.width * self.share)
        edited.paste(ImageOps.invert(image.crop((0, 0, width, image.height))), (0, 0))
        return edited


def test_an_editor_is_told_what_was_proposed_for_the_photograph(tmp_path: Path) -> None:
    file = tmp_path / "proposals.jsonl"
    file.write_text(
        '{"image": "cat.jpg", "instruction": "give the cat a hat"}\n{"image": "x.jpg", "instruction": null}\n'
    )
    with maker(editor=Inverting(0.3), instructions=file).open() as make:
        pair = made(make, 0)
        assert pair.meta["instruction"] == "give the cat a hat"
        assert pair.meta["edit"] == "instruction"
        assert pair.meta["box"][2] == pytest.approx(96, abs=1)
        assert pair.meta["changed"] == pytest.approx(0.3, abs=0.06)
        with pytest.raises(Rejected, match="no instruction was proposed"):
            make(random.Random(0), 1)


@pytest.mark.parametrize(("share", "reason"), [(0.0, "no visible change"), (1.0, "everything changed")])
def test_failed_edits_of_an_editor_are_found(share: float, reason: str) -> None:
    with maker(editor=Inverting(share)).open() as make, pytest.raises(Rejected, match=reason):
        make(random.Random(0), 0)


def test_an_editor_must_keep_the_size() -> None:
    options = maker(editor=Inverting(0.3, wrong_size=True))
    with options.open() as make, pytest.raises(ValueError, match="must return the size"):
        make(random.Random(0), 0)


def test_a_photograph_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (40, 300)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    with PhotoMaker(photos=(str(tmp_path),)).open() as make:
        with pytest.raises(BadImageError, match=r"a\.png: .*64"):
            make(random.Random(0), 0)
        with pytest.raises(BadImageError, match=r"b\.png"):
            make(random.Random(0), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_changed": 0.5, "max_changed": 0.5}, "min_changed"),
        ({"max_changed": 1.2}, "max_changed"),
        ({"failed_edits": 1.5}, "failed_edits"),
        ({"edits": ("smear",)}, "smear"),
        ({"edits": ()}, "edits"),
        ({"size": (320, 32)}, "size"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(PairSourceError, match=message):
        maker(**options)


def test_arguments_reach_the_maker() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [
        "--photos",
        "a",
        "b",
        "--edits",
        "mirror",
        "paste",
        "mirror",
        "--min_changed",
        "0.1",
        "--max_changed",
        "0.3",
    ]
    given += ["--failed_edits", "0.2", "--failed_edits_seed", "7", "--instructions", "told.txt"]
    args = parser.parse_args(given)
    args.size = (320, 240)
    assert from_arguments(args) == PhotoMaker(
        photos=("a", "b"),
        edits=("mirror", "paste"),
        min_changed=0.1,
        max_changed=0.3,
        failed_edits=0.2,
        failed_edits_seed=7,
        size=(320, 240),
        instructions=Path("told.txt"),
    )
    plain = parser.parse_args(["--photos", "a"])
    plain.size = None
    assert from_arguments(plain) == PhotoMaker(photos=("a",))
