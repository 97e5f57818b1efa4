"""Files as people have them: names, layouts, splits and depths that are read, counted, or asked about; none guessed."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision_zero import inspect_data
from vision_zero.config.game import GameConfig
from vision_zero.data.pairing import _marks, _split
from vision_zero.data.pairs import (
    BadImageError,
    DatasetImage,
    ImageFile,
    LazyPairs,
    PairSourceError,
    check_pairs,
    load_pairs,
    open_pair,
)
from vision_zero.trainer.resume import check_pairs_unchanged, fingerprint_pairs, write_inputs

ROOT = Path(__file__).parents[2]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def draw(folder: Path, *names: str) -> Path:
    """Images, each of a colour of its own."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (number * 9 % 256, 99, 9)).save(folder / name)
    return folder


def lines(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def files_of(pairs: LazyPairs, root: Path) -> dict[str, tuple[str, str | None]]:
    """{id: (image, edited)} with paths from `root`."""

    def file(image: Any) -> str:
        source = image.content() if isinstance(image, DatasetImage) else image
        return os.path.relpath(source.path, root)

    return {pair.id: (file(pair.image), pair.edited and file(pair.edited)) for pair in pairs}


# ------------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    "names",
    [
        ("{}_Original.PNG", "{}_Modified.jpg"),
        ("{}_ORIGINAL.png", "{}_modified.PNG"),
        ("{}-original.png", "{}-edited.webp"),
        ("before/{}.png", "after/{}.jpg"),
        ("Source/{}.png", "TARGET/{}.png"),
        ("train/sources/{}.png", "train/targets/{}.png"),
        ("input_images/{}.png", "edited_images/{}.png"),
        ("original_{}.png", "edited_{}.png"),
        ("{}/before.png", "{}/after.png"),
        ("{}.png", "{}_edited.png"),
        ("{}_source_img.png", "{}_target_img.png"),
        ("x{}Before.png", "x{}After.png"),
        ("img{}Original.png", "img{}EditedImage.png"),
        ("{}original.png", "{}modified.png"),
        ("original{}.png", "modified{}.png"),
        ("before({}).png", "after({}).png"),
        ("x{}.png", "x{}Edited.png"),
        (unicodedata.normalize("NFC", "é{}_original.png"), unicodedata.normalize("NFD", "é{}_modified.png")),
        ("é [v1] {}_src.png", "é [v1] {}_dst.png"),
    ],
    ids=lambda names: names[1],
)
def test_pairs_by_known_words(tmp_path: Path, names: tuple[str, str]) -> None:
    draw(tmp_path, *(name.format(number) for number in range(3) for name in names))
    pairs = load_pairs(tmp_path)
    assert sorted(files_of(pairs, tmp_path).values()) == sorted(
        (names[0].format(number), names[1].format(number)) for number in range(3)
    )
    assert pairs.layout == "pairs"
    assert len(pairs.notes) <= 1, "how they were paired, and no file is left"
    assert all(pair.edited is None for pair in load_pairs(tmp_path, pair_by="none"))


@pytest.mark.parametrize(
    ("names", "flag"),
    [
        (("{}_0.png", "{}_1.png"), "_0,_1"),
        (("a/{}.png", "b/{}.png"), "a/,b/"),
        (("{}/0.png", "{}/1.png"), "/0,/1"),
        (("{}_A.png", "{}_B.png"), "_a,_b"),
        (("old/{}.png", "new/{}.png"), "old/,new/"),
        (("{}A.png", "{}B.png"), "_a,_b"),
    ],
)
def test_pairs_of_words_that_other_files_have_too_are_asked_about(
    tmp_path: Path, names: tuple[str, str], flag: str
) -> None:
    draw(tmp_path, *(name.format(f"x{number}") for number in range(3) for name in names))
    with pytest.raises(PairSourceError, match=f"6 images may be pairs .*--pair_by {flag}.*or single images"):
        load_pairs(tmp_path)
    both = files_of(load_pairs(tmp_path, pair_by=flag), tmp_path)
    assert sorted(both.values()) == [tuple(name.format(f"x{number}") for name in names) for number in range(3)]
    turned = ",".join(reversed(flag.split(",")))
    assert sorted(files_of(load_pairs(tmp_path, pair_by=turned), tmp_path).values()) == [
        tuple(name.format(f"x{number}") for name in reversed(names)) for number in range(3)
    ]
    assert len(load_pairs(tmp_path, pair_by="none")) == 6


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0_original.png", "0_modified.png", "1_original.png", "c.png"), r"c\.png: neither .*\(2 of 4 images"),
        (("before/0.png", "after/0.png", "before/1.png"), r"before/1\.png: its partner after/1\.\* is missing"),
        (("0_before.png", "0_after.png", "0_after.jpg"), r"two files for one image of a pair: 0_after\.jpg and 0_aft"),
        (("before/0.png", "after/7.png"), r"0\.png: its partner .*7|7\.png: its partner before/7\.\* is missing"),
        (("cat.png", "cat_edited.png", "dog.png"), r"dog\.png: its partner dog_edited\.\* is missing"),
        (
            tuple(f"{side}/0_{part}.png" for side in ("before", "after") for part in ("source", "target")),
            r"may be pairs .*NAME_source \+ NAME_target.* or before/NAME \+ after/NAME|before/NAME .* or NAME_source",
        ),
    ],
)
def test_what_does_not_fit_stops_and_names_the_flag(tmp_path: Path, names: Sequence[str], message: str) -> None:
    draw(tmp_path, *names)
    with pytest.raises(PairSourceError, match=message) as error:
        load_pairs(tmp_path)
    assert "--pair_by" in str(error.value)
    assert len(load_pairs(tmp_path, pair_by="none")) == len(names)


@pytest.mark.parametrize(
    "names",
    [
        ("film_0.png", "film_1.png", "film_2.png", "film_3.png"),
        tuple(f"{kind}/{number}.png" for kind in ("cats", "dogs") for number in range(4)),
        ("a.png", "b.png"),
        ("before sunrise.png", "cat.png"),
        *[tuple(f"{digit}/{name}.png" for digit in range(10) for name in "xy")],
    ],
)
def test_single_images_stay_single(tmp_path: Path, names: Sequence[str]) -> None:
    assert list(files_of(load_pairs(draw(tmp_path, *names)), tmp_path)) == sorted(names)


@pytest.mark.parametrize(("first", "second"), [("images", "edited"), ("input", "gt"), ("Clean", "Target")])
def test_a_known_word_beside_another_folder_of_the_same_names_is_asked_about(
    first: str, second: str, tmp_path: Path
) -> None:
    draw(tmp_path, *[f"{folder}/{number}.png" for folder in (first, second) for number in range(3)])
    with pytest.raises(PairSourceError, match=r"may be pairs .*--pair_by .*none"):
        load_pairs(tmp_path)
    assert len(load_pairs(tmp_path, pair_by=f"{first}/,{second}/")) == 3
    assert len(load_pairs(tmp_path, pair_by="none")) == 6


def test_words_in_brackets_make_pairs(tmp_path: Path) -> None:
    draw(tmp_path, "a (original).png", "a (edited).png", "b [Original].png", "b [Edited].png")
    assert len(load_pairs(tmp_path)) == 2


@given(st.lists(st.sampled_from([*"ab01_-/ (]", "x", "cat", "Before", "after", "edited", "images", "Img"]), min_size=1))
def test_no_name_with_a_word_is_passed_over_for_speed(parts: list[str]) -> None:
    """The look at ends and beginnings leaves out no name that a pattern fits."""
    file = re.sub("/+", "/", "".join(parts).strip("/") or "x") + ".png"
    words = {"before", "after", "edited", "a", "b", "0", "1"}
    quick = _marks([_split(file)], words)
    base, anything = file.removesuffix(".png"), "".join
    slow = _marks([(anything(base.rpartition("/")[:2]), base.rpartition("/")[2], _EverySide(), file)], words)
    assert quick == slow


class _EverySide(str):
    """A name of which nothing can be told by its ends."""

    def endswith(self, *_: Any) -> bool:
        return True

    startswith = endswith

    def __getitem__(self, key: Any) -> str:
        return "e"


def test_a_table_of_single_images_that_look_like_pairs_is_asked_about(tmp_path: Path) -> None:
    names = [f"{name}_{side}.png" for name in "xyz" for side in ("original", "modified")]
    draw(tmp_path, *names)
    lines(tmp_path / "metadata.jsonl", *({"file_name": name} for name in names))
    said = r"single images \(--pair_by none\), and they may be pairs NAME_original .*--pair_by _original,_modified\)"
    with pytest.raises(PairSourceError, match=said):
        load_pairs(tmp_path)
    single, pairs = load_pairs(tmp_path, pair_by="none"), load_pairs(tmp_path, pair_by="_original,_modified")
    assert (single.layout, len(single), single.notes) == ("data set", 6, ())
    assert sorted(files_of(pairs, tmp_path)) == ["x", "y", "z"]
    assert any("1 file not used: 1 .jsonl" in note for note in pairs.notes)


@pytest.mark.usefixtures("own_cache")
def test_pair_by_beside_a_table_is_told_and_not_refused(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.png")
    manifest = lines(tmp_path / "m.jsonl", {"id": "0", "image": "a.png", "edited": "b.png"})
    for words in ("a,b", "none"):
        (note,) = load_pairs(manifest, pair_by=words).notes
        assert note == f"{manifest}: --pair_by {words} is not used: it is a manifest, no folder"
    single = lines(tmp_path / "s.jsonl", {"id": "0", "image": "a.png"})
    assert load_pairs(single, pair_by="none").notes == ()
    assert "--pair_by a,b is not used" in load_pairs("drawn:3", pair_by="a,b").notes[0]


@pytest.mark.usefixtures("own_cache")
def test_parquet_files_in_any_case_three_folders_deep(tmp_path: Path) -> None:
    import datasets

    draw(tmp_path / "images", "a.png", "b.png")
    files = (tmp_path / "images" / name for name in ("a.png", "b.png"))
    data = {"image": [{"path": None, "bytes": file.read_bytes()} for file in files]}
    table = datasets.Dataset.from_dict(data, features=datasets.Features({"image": datasets.Image()}))
    for name in ("deep/by/the/whole.parquet", "upper/train-00000-of-00001.PARQUET"):
        (tmp_path / name).parent.mkdir(parents=True)
        table.to_parquet(tmp_path / name)
        assert len(load_pairs(tmp_path / name.split("/")[0])) == 2


@pytest.mark.usefixtures("own_cache")
def test_a_cell_of_a_parquet_file_names_no_file_elsewhere(tmp_path: Path) -> None:
    import datasets

    draw(tmp_path, "private.png", "set/a.png")
    cells = [{"path": path, "bytes": None} for path in ("a.png", str(tmp_path / "private.png"), "../private.png")]
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(tmp_path / "set" / "t.parquet")
    pairs = load_pairs(tmp_path / "set", columns=("image",))
    assert pairs[0].image.open().size == (12, 8)
    with pytest.raises(BadImageError, match=rf"row 1, column image: .*paths must be relative to {tmp_path / 'set'}"):
        pairs[1].image.open()
    with pytest.raises(BadImageError, match=r"row 2, column image: .*leaves the folder"):
        pairs[2].image.open()


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + b"\xff" * 40])
def test_damaged_metadata_is_named(tmp_path: Path, content: bytes) -> None:
    (draw(tmp_path, "a.png") / "metadata.parquet").write_bytes(content)
    with pytest.raises(PairSourceError, match=f"^{tmp_path}: `datasets` cannot read it"):
        load_pairs(tmp_path)


def test_a_shard_that_is_missing_is_told(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    for number in (0, 2):
        table = pyarrow.table({"image": [b"x"], "caption": ["x"]})
        pyarrow.parquet.write_table(table, tmp_path / f"train-{number:05d}-of-00003.parquet")
    with pytest.raises(PairSourceError, match=r"2 of the 3 files train-\*-of-00003 are there"):
        load_pairs(tmp_path)


def test_shards_are_counted_by_folder(tmp_path: Path) -> None:
    import datasets

    for folder, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / folder).mkdir()
        pictures = datasets.Dataset.from_dict({"image": [Image.new("RGB", (8, 8), colour)]})
        pictures.to_parquet(tmp_path / folder / "train-00000-of-00001.parquet")
    assert len(load_pairs(tmp_path)) == 2


def test_pair_by_that_nothing_fits_or_that_says_nothing(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.png")
    with pytest.raises(PairSourceError, match="--pair_by left,right was given, but no image of"):
        load_pairs(tmp_path, pair_by="left,right")
    for said in ("left", "left,", "x,x", "a,b,c", ""):
        with (
            pytest.raises(PairSourceError, match="--pair_by is none or the words") if said else pytest.raises(KeyError)
        ):
            load_pairs(tmp_path, pair_by=said) if said else {}[said]


# ----------------------------------------------------------------------------------------------- what is not used


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (lambda root: draw(root, "a.png"), "12 files not used: 10 .heic, 2 .txt (first: 0.heic)"),
        (lambda root: draw(root, "0_original.png", "0_modified.png"), "12 files not used: 10 .heic, 2 .txt"),
        (lambda root: lines(draw(root, "a.png", "b.png") / "manifest.jsonl", {"id": "1", "image": "a.png"}), "1 file "),
        (lambda root: lines(draw(root, "a.png", "b.png") / "metadata.jsonl", {"file_name": "a.png"}), "1 .png"),
    ],
)
def test_files_that_are_not_used_are_counted(tmp_path: Path, make: Callable[[Path], Any], note: str) -> None:
    make(tmp_path)
    for number in range(10):
        (tmp_path / f"{number}.heic").write_bytes(b"x")
    (tmp_path / "y.txt").write_text("x")
    (tmp_path / "z.TXT").write_text("x")
    assert [note in one for one in load_pairs(tmp_path).notes] == [True]
    assert note in load_pairs([tmp_path, "drawn:4"]).notes[0]


# ------------------------------------------------------------------------------------------------------------ splits


def parquet(path: Path, n: int) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "PNG")
    write_table(pyarrow.table({"image": [{"bytes": stream.getvalue(), "path": None}] * n}), path)


PARQUETS: dict[str, tuple[dict[str, int], str | None, int | str]] = {
    "brackets": ({"set[v1]*.parquet": 3}, None, 3),
    "one file called train": ({"photo of a train.parquet": 3}, None, 3),
    "train is told": ({"data/train-00000-of-00001.parquet": 2, "data/test-00000-of-00001.parquet": 1}, None, 2),
    "test is asked for": ({"data/train-00000-of-00001.parquet": 2, "data/test-00000-of-00001.parquet": 1}, "test", 1),
    "all": ({"data/train-00000-of-00001.parquet": 2, "data/test-00000-of-00001.parquet": 1}, "all", 3),
    "only some": (
        {"cats.parquet": 2, "my_test.parquet": 1},
        None,
        "files of test and files of no split; give --split NAME",
    ),
    "none is train": ({"val.parquet": 2, "test.parquet": 1}, None, 'none called "train"; give --split NAME'),
    "no such": ({"train.parquet": 2, "test.parquet": 1}, "dev", 'splits test, train and none called "dev"'),
}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", PARQUETS)
def test_splits_of_parquet_files(tmp_path: Path, name: str) -> None:
    files, split, expected = PARQUETS[name]
    root = tmp_path / "set [v1] with test and train"
    for file, n in files.items():
        parquet(root / file, n)
    if isinstance(expected, str):
        with pytest.raises(PairSourceError, match=expected):
            load_pairs(root, columns=["image"], dataset_split=split)
        return
    pairs = load_pairs(root, columns=["image"], dataset_split=split)
    assert len(pairs) == expected
    told = sum(files.values()) > expected
    assert ["--split says which" in note for note in pairs.notes] == [True] * told
    assert open_pair(pairs[0])[0].size == (9, 9)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("folders", [("",), ("train/",), ("train/", "test/"), ("cats/", "dogs/"), ("data/train/",)])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_image_folders_with_metadata(tmp_path: Path, folders: Sequence[str], kind: str) -> None:
    root = tmp_path / "set[v1]"
    names = ["photo of a train", "photo of test tubes", "photo of a cat"]
    for folder in folders:
        draw(root / folder, *(f"{name}{end}.png" for name in names for end in ("", " edited")))
        rows = [(f"{name}.png", f"{name} edited.png") for name in names]
        keys = ("original_image_file_name", "edited_image_file_name")
        if kind == "jsonl":
            lines(root / folder / "metadata.jsonl", *(dict(zip(keys, row, strict=True)) for row in rows))
        else:
            (root / folder / "metadata.csv").write_text("\n".join(map(",".join, (keys, *rows))) + "\n")
    pairs = load_pairs(root)
    read = [folder for folder in folders if folder != "test/"]
    assert list(files_of(pairs, root).values()) == [
        (f"{folder}{name}.png", f"{folder}{name} edited.png") for folder in read for name in names
    ]
    assert ["--split says which" in note for note in pairs.notes][:1] == [True] * ("test/" in folders)
    assert len(load_pairs(root, dataset_split="all")) == 3 * len(folders)


def test_a_split_where_there_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairSourceError, match=r"--split test was given, but .* has no splits"):
        load_pairs(draw(tmp_path, "a.png"), dataset_split="test")


# ------------------------------------------------------------------------------------------- depths and damaged files


def tiff(bits: int, data: bytes, *, size: tuple[int, int] = (64, 48), sign: int = 1, zero: int = 1) -> bytes:
    """A grey TIFF without compression: `zero` 0 if white is."""
    tags = {256: size[0], 257: size[1], 258: bits, 259: 1, 262: zero, 273: 134, 277: 1, 278: size[1], 279: len(data)}
    tags[339] = sign
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 279 else 3, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def packed(bits: int, values: Sequence[int]) -> bytes:
    text = "".join(f"{value:0{bits}b}" for value in values)
    return bytes(int(text[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(text), 8))


N = 64 * 48
RAMP = [number / (N - 1) for number in range(N)]
SHORTS = struct.pack(f"<{N}H", *(round(65535 * one) for one in RAMP))
DEPTHS: dict[str, tuple[bytes, str | tuple[int, int]]] = {
    "12": (tiff(12, packed(12, [round(4095 * one) for one in RAMP])), (0, 255)),
    "16": (tiff(16, SHORTS), (0, 255)),
    "16, white is zero": (tiff(16, SHORTS, zero=0), (255, 0)),
    "8": (tiff(8, bytes(round(255 * one) for one in RAMP)), (0, 255)),
    "10": (tiff(10, packed(10, [round(1023 * one) for one in RAMP])), r"a TIFF file of \(10,\) bits a sample"),
    "14": (tiff(14, packed(14, [round(16383 * one) for one in RAMP])), r"a TIFF file of \(14,\) bits a sample"),
    "32": (tiff(32, struct.pack(f"<{N}I", *(round(4294967295 * one) for one in RAMP))), "whole numbers of 32 bits"),
    "32, small": (tiff(32, struct.pack(f"<{N}I", *(round(4095 * one) for one in RAMP))), "whole numbers of 32 bits"),
    "16, signed": (tiff(16, SHORTS, sign=2), "whole numbers of 16 bits"),
    "float": (tiff(32, struct.pack(f"<{N}f", *RAMP), sign=3), "floating-point numbers of 32 bits"),
    "pgm": (b"P5 64 48 4095\n" + struct.pack(f">{N}H", *(round(4095 * one) for one in RAMP)), (0, 255)),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_grey_is_scaled_or_its_depth_is_refused(tmp_path: Path, name: str) -> None:
    data, expected = DEPTHS[name]
    (tmp_path / "a.tif").write_bytes(data)
    if isinstance(expected, str):
        with pytest.raises(BadImageError, match=rf"^{tmp_path}/a\.tif: .*{expected}"):
            ImageFile(tmp_path / "a.tif").open()
        return
    image = ImageFile(tmp_path / "a.tif").open()
    assert (image.getpixel((0, 0)), image.getpixel((63, 47))) == tuple((value,) * 3 for value in expected)
    assert image.getpixel((32, 24))[0] in range(120, 136)  # type: ignore[index]


def test_values_of_fewer_bits_in_16_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, bits in (("a", 12), ("b", 14), ("c", 16)):
        data = struct.pack(f"<{N}H", *(round((2**bits - 1) * one) for one in RAMP))
        Image.frombytes("I;16", (64, 48), data).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.tif").write_bytes(tiff(16, data))
    Image.new("L", (64, 48), 3).save(tmp_path / "of_8_bits.png")
    colours = struct.pack(f">{3 * N}H", *(round(4095 * one) for one in RAMP for _ in range(3)))
    rows = b"".join(b"\0" + colours[at : at + 384] for at in range(0, len(colours), 384))
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    (tmp_path / "colours.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert inspect_data.main([str(tmp_path)]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "16 bits" in line]
    assert told == [
        "5 images of 8 opened pairs have all values in the lowest quarter of 16 bits (first: a.png): they look dark; "
        "if their values have fewer bits, as 12, save them with 8"
    ]


def png(*chunks: tuple[bytes, bytes], broken: bool = False) -> bytes:
    """A green PNG with more chunks before its pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 90, 9)).save(stream, "PNG")
    data, more = stream.getvalue(), b""
    for kind, body in chunks:
        more += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ broken)
    return data[:33] + more + data[33:]


LONG = zlib.compress(b"A" * 3_000_000)


@pytest.mark.parametrize(
    "data",
    [
        png((b"zTXt", b"workflow\0\0" + LONG)),
        png((b"iCCP", b"icc\0\0" + LONG)),
        png((b"iTXt", b"w\0\1\0\0\0" + LONG)),
        png((b"tEXt", b"a\0b"), broken=True),
        png(*[(b"zTXt", b"w\0\0" + zlib.compress(b"A" * 1_000_000))] * 70),
    ],
)
def test_metadata_of_a_whole_png_do_not_matter(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    assert ImageFile(tmp_path / "a.png").open().getpixel((1, 1)) == (9, 90, 9)
    (tmp_path / "a.png").write_bytes(data[:-30])
    with pytest.raises(BadImageError, match=r"a\.png: "):
        ImageFile(tmp_path / "a.png").open()


@pytest.mark.parametrize("exif", [b"no TIFF at all", b"II*\0\xff\xff"])
def test_damaged_exif_is_told_as_that(tmp_path: Path, exif: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png((b"eXIf", exif)))
    with pytest.raises(BadImageError, match=r"a\.png: its EXIF data are damaged"):
        ImageFile(tmp_path / "a.png").open()


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a.png",
        "m/manifest.jsonl",
        "m/metadata.jsonl",
        "m/metadata.csv",
        "m/train.parquet",
        "images/x_scenes.json",
    ],
)
def test_git_lfs_pointers_are_named(tmp_path: Path, name: str) -> None:
    draw(tmp_path, "images/0.png")
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if name.endswith(".json"):
        file = tmp_path / "CLEVR_scenes.json"
    file.write_bytes(POINTER)
    with pytest.raises((PairSourceError, BadImageError), match=rf"{file.name}.*Git LFS pointer.*git lfs pull"):
        check_pairs(load_pairs(file.parent))


# ------------------------------------------------------------------------------------------------- names and messages


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("way", ["manifest", "source", "charts", "windows"])
def test_names_in_either_unicode_form(tmp_path: Path, form: Any, way: str) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    on_disk, written = (unicodedata.normalize(one, "Ünïcode é") for one in (form, other))
    if way == "charts":
        draw(tmp_path, f"png/{on_disk}.png")
        (tmp_path / "tables").mkdir()
        (tmp_path / "tables" / f"{written}.csv").write_text("a,b\n1,2\n")
        source = tmp_path
    elif way == "source":
        draw(tmp_path / on_disk, "a.png")
        source = tmp_path / written
    else:
        slash = "\\" if way == "windows" else "/"
        draw(tmp_path, f"{on_disk}/{on_disk}.png")
        source = lines(tmp_path / "m.jsonl", {"id": "0", "image": f"{written}{slash}{written}.png"})
    assert open_pair(load_pairs(source)[0])[0].size == (12, 8)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("record", ["image", "edited", "id", "key", "domain"])
def test_long_values_are_cut(tmp_path: Path, prefix: str, record: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = prefix + base64.b64encode(os.urandom(150_000)).decode()
    draw(tmp_path, "a.png")
    row = {"id": "0", "image": "a.png", **({value: 1} if record == "key" else {record: value})}
    code = inspect_data.main([str(lines(tmp_path / "m.jsonl", row, row if record == "id" else {"id": "1"}))])
    out, err = capsys.readouterr()
    assert code == 1
    assert len(out + err) < 1000
    assert "characters)" in err
    if record in ("image", "edited"):
        assert "not a path" in err


def test_names_are_printed_without_control_characters_in_any_terminal(tmp_path: Path) -> None:
    for name in ("鸟.png", "\x1b[31mred\x07.png", "two\nlines.png", "é.png"):
        (tmp_path / name).write_text("bad")
    for encoding in ("latin-1", "ascii", "utf-8"):
        done = subprocess.run(
            [sys.executable, "-m", "vision_zero.inspect_data", str(tmp_path), "--all"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        said = done.stdout.decode(encoding)
        assert (done.returncode, done.stderr) == (1, b"")
        assert [line for line in said.splitlines() if line.startswith("bad: ")] == said.splitlines()[-4:]
        assert "\\x1b[31mred\\x07.png" in said
        assert "\\u9e1f.png" in said or "鸟.png" in said
        assert not any(ord(one) < 32 and one != "\n" for one in said)


# ------------------------------------------------------------------------------------------------ what a run depends on


def test_the_options_decide_what_a_run_trains_on_and_holds_out(tmp_path: Path) -> None:
    draw(tmp_path / "set", *(f"{number}_{side}.png" for number in range(8) for side in (0, 1)))
    game = GameConfig(images=[str(tmp_path / "set")], pair_by="0,1", holdout=0.25)
    train, heldout = game.pairs("train"), game.pairs("heldout")
    assert (len(train), len(heldout)) == (6, 2)
    assert {pair.id for pair in train} | {pair.id for pair in heldout} == {str(number) for number in range(8)}
    write_inputs(tmp_path, fingerprint_pairs(train), {})
    check_pairs_unchanged(tmp_path, fingerprint_pairs(train), {"games_dealt": 50}, seed=0)
    for other in ("1,0", "none"):
        changed = GameConfig(images=game.images, pair_by=other, holdout=0.25).pairs("train")
        with pytest.raises(ValueError, match="the run was begun with"):
            check_pairs_unchanged(tmp_path, fingerprint_pairs(changed), {"games_dealt": 50}, seed=0)


@pytest.mark.usefixtures("own_cache")
def test_images_that_a_table_names_are_in_the_fingerprint(tmp_path: Path) -> None:
    draw(tmp_path / "set", "a.png", "b.png")
    lines(tmp_path / "set" / "metadata.jsonl", {"file_name": "a.png"}, {"file_name": "b.png"})
    before = fingerprint_pairs(load_pairs(tmp_path / "set"))
    assert all(line["images"][0] for line in before)
    write_inputs(tmp_path, [{**line, "images": [""]} for line in before], {})  # as earlier versions wrote them
    check_pairs_unchanged(tmp_path, before, {"games_dealt": 9}, seed=0)
    write_inputs(tmp_path, before, {})
    draw(tmp_path / "set", "b.png", "a.png")
    with pytest.raises(ValueError, match="not those that the run was begun with"):
        check_pairs_unchanged(tmp_path, fingerprint_pairs(load_pairs(tmp_path / "set")), {"games_dealt": 9}, seed=0)
