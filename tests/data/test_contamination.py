"""Copies are found whatever was done to them; different images are not; and all of two large sets are compared."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision_zero import inspect_data
from vision_zero.data.contamination import (
    DEFAULT_DISTANCE,
    block_colours,
    colour_difference,
    hash_images,
    near_pairs,
    perceptual_hash,
    shared_images,
)
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.data.pairs import load_pairs

PHOTOS = Path(__file__).resolve().parents[2] / "data" / "photos"
HASHES = st.integers(0, 2**64 - 1)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def cropped(image: Image.Image, share: float) -> Image.Image:
    """`share` of the width and the height cut off at every side."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def distance(one: int, other: int) -> int:
    """Bits that differ, 0 to 64."""
    return (one ^ other).bit_count()


def test_hash_by_hand() -> None:
    """A wave along x is the frequency (0, k) alone: bit k of the first row, counted from the left."""
    positions = np.arange(32) + 0.5
    for frequency in (1, 3, 7):
        wave = 127.5 + 100 * np.cos(np.pi / 32 * positions * frequency)
        image = Image.fromarray(np.tile(wave.round().astype(np.uint8), (32, 1)))
        bits = f"{perceptual_hash(image):064b}"
        coefficients = bits[:8]
        assert coefficients[0] == "1"  # the mean
        assert coefficients[frequency] == "1"
        inverted = f"{perceptual_hash(Image.fromarray(255 - np.asarray(image))):064b}"
        assert inverted[frequency] == "0"


@given(HASHES, HASHES)
def test_distance_counts_bits(one: int, other: int) -> None:
    assert distance(one, other) == bin(one ^ other).count("1") == distance(other, one)
    assert distance(one, one) == 0


@given(st.lists(HASHES, max_size=20), st.lists(HASHES, max_size=20), st.integers(0, 64))
def test_near_pairs_are_all_near_pairs(some: list[int], others: list[int], most: int) -> None:
    expected = {
        (row, column, distance(one, other))
        for row, one in enumerate(some)
        for column, other in enumerate(others)
        if distance(one, other) <= most
    }
    shown: list[int] = []
    bar = lambda blocks: shown.extend(blocks) or blocks  # noqa: E731
    found = list(near_pairs(np.array(some, np.uint64), np.array(others, np.uint64), most, bar))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert shown == ([0] if some else [])  # one block


def test_blocks_cover_everything_and_a_large_comparison_is_quick() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    some = generator.integers(0, 2**64, 20_000, dtype=np.uint64)
    others = generator.integers(0, 2**64, 10_000, dtype=np.uint64)
    some[[0, 777, 19_999]] = others[[5, 9_999, 0]]
    start = time.process_time()
    found = list(near_pairs(some, others, 4))
    seconds = time.process_time() - start
    assert {(row, other) for row, other, _ in found} == {(0, 5), (777, 9_999), (19_999, 0)}
    assert seconds < 20  # 200 million comparisons: about 2 s of one core


@pytest.mark.parametrize("change", ["jpeg", "half", "square", "crop", "all"])
def test_copies_of_photographs_are_found(change: str, tmp_path: Path) -> None:
    photographs = load_pairs(PHOTOS)
    for pair in photographs:
        image = pair.image.open()
        small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
        changed = {
            "jpeg": jpeg(image, 40),
            "half": small,
            "square": image.resize((224, 224), Image.Resampling.BILINEAR),
            "crop": cropped(image, 0.01),
            "all": jpeg(cropped(small, 0.01), 60),
        }[change]
        changed.save(tmp_path / f"{Path(pair.id).stem}.png")
    ours, copies = hash_images(photographs), hash_images(load_pairs(tmp_path))
    found = shared_images(ours, copies, DEFAULT_DISTANCE)
    assert {(Path(one.id).stem, Path(one.other_id).stem) for one in found} == {
        (Path(p.id).stem,) * 2 for p in photographs
    }


def test_different_images_are_not_found() -> None:
    photographs = hash_images(load_pairs(PHOTOS))
    found = shared_images(photographs, photographs, DEFAULT_DISTANCE)
    assert all(one.id == one.other_id for one in found)
    assert len(found) == len(photographs.ids)

    some, others = hash_images(drawn_pairs(range(300))), hash_images(drawn_pairs(range(300, 600)))
    assert len(some.ids) == 600  # both images of each pair
    near = list(near_pairs(some.hashes, others.hashes, DEFAULT_DISTANCE))
    assert len(near) > 100  # scenes look alike to the hash; their colours tell them apart
    assert len(shared_images(some, others, DEFAULT_DISTANCE)) <= 2


def test_colours_by_hand() -> None:
    red, other = Image.new("RGB", (40, 30), (200, 10, 10)), Image.new("RGB", (7, 9), (190, 10, 45))
    assert block_colours(red).tolist() == [200, 10, 10] * 64
    assert colour_difference(block_colours(red), block_colours(other)) == 35


def test_the_program_reports_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, benchmark = tmp_path / "training", tmp_path / "benchmark"
    training.mkdir()
    benchmark.mkdir()
    photographs = [pair.image.open() for pair in load_pairs(PHOTOS)]
    photographs[0].save(training / "a_original.png")
    photographs[1].resize(photographs[0].size).save(training / "a_modified.png")
    photographs[2].save(benchmark / "other.png")
    words = [str(training), "--against", str(benchmark)]
    assert inspect_data.main(words) == 0
    assert "shared                 0 (within 10 of 64 bits)" in capsys.readouterr().out

    jpeg(photographs[1], 50).save(benchmark / "copy.png")
    assert inspect_data.main(words) == 1
    assert "shared: a (edited) looks like copy.png of the other source" in capsys.readouterr().out

    (benchmark / "copy.png").write_text("no image")
    assert inspect_data.main(words) == 1
    assert "not compared: copy.png: " in capsys.readouterr().out
    assert inspect_data.main([str(training), "--against", str(tmp_path / "nowhere")]) == 1
    for distance_given in ("-1", "65"):
        with pytest.raises(SystemExit):
            inspect_data.main([*words, "--distance", distance_given])
