"""Reading image pairs: every layout, every refusal with the file's name, laziness, order and split."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import time
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_zero.data import image_files
from vision_zero.data.pairs import (
    BadImageError,
    DatasetImage,
    ImageFile,
    PairSourceError,
    check_pairs,
    load_pairs,
    open_pair,
)
from vision_zero.types import DOMAINS, ImagePair

PHOTOS = Path(__file__).parents[2] / "data" / "photos"


def draw(path: Path, size: tuple[int, int] = (12, 8), color: Any = "red", mode: str = "RGB", **options: Any) -> Path:
    """Write a one-coloured image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def draw_pairs(folder: Path, *names: str) -> Path:
    for name in names:
        draw(folder / f"{name}_original.png", color="red")
        draw(folder / f"{name}_modified.png", color="blue")
    return folder


def write_lines(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def ids(pairs: Sequence[ImagePair]) -> list[str]:
    return [pair.id for pair in pairs]


def color(image: Image.Image | None) -> Any:
    assert image is not None
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Any image that is opened leaves its name in this list."""
    opened: list[str] = []
    decode = image_files.decode

    def counted(stream: Any, name: str) -> Image.Image:
        opened.append(name)
        return decode(stream, name)

    monkeypatch.setattr(image_files, "decode", counted)
    return opened


# ------------------------------------------------------------------------------------------------- folders of pairs


class TestPairsFolder:
    def test_pairs_are_read_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path, "b", "a", "more/c")
        pairs = load_pairs(tmp_path)
        assert ids(pairs) == ["a", "b", "more/c"]
        assert {pair.domain for pair in pairs} == {"photos"}
        image, edited = open_pair(pairs[2])
        assert (color(image), color(edited)) == ((255, 0, 0), (0, 0, 255))
        assert pairs[0].image == ImageFile(tmp_path / "a_original.png")
        assert hash(pairs[0].image) == hash(ImageFile(tmp_path / "a_original.png"))

    def test_extensions_may_differ_and_be_upper_case(self, tmp_path: Path) -> None:
        draw(tmp_path / "a_original.PNG")
        draw(tmp_path / "a_modified.JPEG")
        assert check_pairs(load_pairs(tmp_path)).n_edited == 1

    def test_unicode_names(self, tmp_path: Path) -> None:
        composed = unicodedata.normalize("NFC", "été 東京 🦔")
        draw_pairs(tmp_path / "фото", composed)
        pairs = load_pairs(tmp_path)
        assert ids(pairs) == [f"фото/{composed}"]
        assert check_pairs(pairs).n_opened == 1

    def test_comparisons_beside_the_images_make_them_scenes(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path, "a", "b")
        comparison = {"original_scene": {"objects": []}, "modification": {"replaced_objects": [{"index": 1}]}}
        write_json(tmp_path / "a_comparison.json", comparison)
        pairs = load_pairs(tmp_path)
        assert [pair.domain for pair in pairs] == ["scenes", "scenes"]
        assert dict(pairs[0].meta) == comparison
        assert pairs[0].meta["modification"]["replaced_objects"][0]["index"] == 1
        assert dict(pairs[1].meta) == {}

    def test_scenes_folder(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path / "images", "a")
        write_json(tmp_path / "scenes" / "a_comparison.json", {"x": 1})
        write_json(tmp_path / "scenes" / "of_no_image_comparison.json", {})
        pairs = load_pairs(tmp_path / "images", scenes=tmp_path / "scenes")
        assert (pairs[0].domain, dict(pairs[0].meta)) == ("scenes", {"x": 1})

    def test_scenes_folder_must_describe_every_pair(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path / "images", "a", "b")
        write_json(tmp_path / "scenes" / "a_comparison.json", {})
        with pytest.raises(PairSourceError, match=r"scenes.*b_comparison\.json"):
            load_pairs(tmp_path / "images", scenes=tmp_path / "scenes")

    def test_descriptions_that_would_be_passed_over_are_refused(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path / "images", "a")
        write_json(tmp_path / "scenes" / "a_comparison.json", {})
        with pytest.raises(PairSourceError, match=r"the source is .*images and scenes is .*scenes"):
            load_pairs(tmp_path)

    def test_scenes_folder_that_is_missing(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path, "a")
        with pytest.raises(PairSourceError, match="nowhere: cannot be listed: No such file"):
            load_pairs(tmp_path, scenes=tmp_path / "nowhere")

    def test_scenes_for_another_layout_are_refused(self, tmp_path: Path) -> None:
        draw(tmp_path / "images" / "a.png")
        (tmp_path / "scenes").mkdir()
        with pytest.raises(PairSourceError, match="no folder of NAME_original"):
            load_pairs(tmp_path / "images", scenes=tmp_path / "scenes")

    def test_a_damaged_comparison_does_not_stop_those_who_do_not_look(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path, "a")
        (tmp_path / "a_comparison.json").write_text("{\n oops")
        pairs = load_pairs(tmp_path)
        assert check_pairs(pairs).n_opened == 1
        with pytest.raises(PairSourceError, match=r"a_comparison\.json, line 2"):
            dict(pairs[0].meta)

    @pytest.mark.parametrize("missing", ["original", "modified"])
    def test_missing_partner(self, tmp_path: Path, missing: str) -> None:
        draw_pairs(tmp_path, "a", "b")
        (tmp_path / f"b_{missing}.png").unlink()
        present = {"original": "modified", "modified": "original"}[missing]
        with pytest.raises(PairSourceError, match=rf"b_{present}\.png: its partner b_{missing}\.\* is missing"):
            load_pairs(tmp_path)

    def test_two_files_for_one_name(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path, "a")
        draw(tmp_path / "a_original.jpg")
        with pytest.raises(PairSourceError, match=r"a_original\.jpg and a_original\.png"):
            load_pairs(tmp_path)

    def test_an_image_that_belongs_to_no_pair(self, tmp_path: Path) -> None:
        draw_pairs(tmp_path, "a")
        draw(tmp_path / "preview.png")
        with pytest.raises(PairSourceError, match=r"preview\.png: neither"):
            load_pairs(tmp_path)


# ------------------------------------------------------------------------------------------------ folders of images


class TestImageFolder:
    def test_recursive_sorted_without_edits(self, tmp_path: Path) -> None:
        for name in ("z.png", "b/y.JPG", "a/x.webp", "a.png", "a.jpg"):
            draw(tmp_path / name)
        (tmp_path / "SOURCES.tsv").write_text("a")
        draw(tmp_path / ".hidden" / "h.png")
        draw(tmp_path / "._a.png")
        pairs = load_pairs(str(tmp_path))
        assert ids(pairs) == ["a.jpg", "a.png", "a/x.webp", "b/y.JPG", "z.png"]
        assert all(pair.edited is None and pair.domain == "photos" for pair in pairs)
        assert open_pair(pairs[0])[1] is None

    def test_the_sample_photographs(self) -> None:
        report = check_pairs(load_pairs(PHOTOS), sample=None)
        lines = (PHOTOS / "SOURCES.tsv").read_text(encoding="utf-8").splitlines()[1:]
        assert sorted(line.split("\t")[0] for line in lines) == ids(load_pairs(PHOTOS))
        assert all(line.split("\t")[2] in ("Public Domain", "CC0-1.0") for line in lines)
        assert report.n_opened == len(lines)

    def test_order_does_not_depend_on_the_file_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [f"{folder}/{name}.png" for folder in "cab" for name in "zxy"]
        for name in names:
            draw(tmp_path / name)
        scandir, shuffle = os.scandir, random.Random(0).shuffle

        class Shuffled:
            def __init__(self, path: Any) -> None:
                with scandir(path) as entries:
                    self.entries = list(entries)
                shuffle(self.entries)

            def __enter__(self) -> Any:
                return iter(self.entries)

            def __exit__(self, *_: object) -> None: ...

        monkeypatch.setattr(os, "scandir", Shuffled)
        for _ in range(5):
            assert ids(load_pairs(tmp_path)) == sorted(names)

    def test_domain_prefix(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        assert load_pairs(f"charts:{tmp_path}")[0].domain == "charts"
        assert load_pairs(f"scenes:{tmp_path}")[0].domain == "scenes"

    def test_linked_folders_are_followed_once(self, tmp_path: Path) -> None:
        draw(tmp_path / "elsewhere" / "a.png")
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "source")
        assert ids(load_pairs(tmp_path / "source")) == ["link/a.png"]

    @pytest.mark.parametrize("source", ["", "photos:", ["photos:"]])
    def test_an_empty_path_is_not_the_current_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any
    ) -> None:
        draw(tmp_path / "a.png")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(PairSourceError, match="is empty"):
            load_pairs(source)

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(PairSourceError, match=r"nowhere: no such file or folder$"):
            load_pairs(tmp_path / "nowhere")

    def test_unknown_domain(self, tmp_path: Path) -> None:
        with pytest.raises(PairSourceError, match=rf"^nodomain:.*no such.* is one of {', '.join(DOMAINS)}$"):
            load_pairs(f"nodomain:{tmp_path}")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(PairSourceError, match=rf"{tmp_path.name}: the folder is empty"):
            load_pairs(tmp_path)

    def test_unknown_extensions_only(self, tmp_path: Path) -> None:
        (tmp_path / "a.heic").write_text("x")
        (tmp_path / "b").write_text("x")
        with pytest.raises(PairSourceError, match=r"no images among 2 files \(\(no extension\), \.heic\)"):
            load_pairs(tmp_path)

    def test_a_single_image_is_no_source(self, tmp_path: Path) -> None:
        with pytest.raises(PairSourceError, match=r"a\.png: a source is a folder"):
            load_pairs(draw(tmp_path / "a.png"))

    def test_file_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"x")
        os.rename(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/\xff.png")
        with pytest.raises(PairSourceError, match="not UTF-8"):
            load_pairs(tmp_path)

    def test_columns_for_a_folder_are_refused(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        with pytest.raises(PairSourceError, match="columns were given"):
            load_pairs(tmp_path, columns=("a", "b"))


# -------------------------------------------------------------------------------------------------------- manifests


class TestManifest:
    def test_all_keys(self, tmp_path: Path) -> None:
        draw(tmp_path / "img" / "b.png", color="red")
        draw(tmp_path / "img" / "c.png", color="blue")
        path = write_lines(
            tmp_path / "pairs.jsonl",
            {"id": "z", "image": "img/b.png", "edited": "img/c.png", "domain": "charts", "meta": {"swap": [1, 2]}},
            "",
            {"id": 7, "image": "img/../img/c.png", "edited": None},
        )
        pairs = load_pairs(path)
        assert ids(pairs) == ["z", "7"]
        assert (pairs[0].domain, dict(pairs[0].meta)) == ("charts", {"swap": [1, 2]})
        assert (pairs[1].domain, pairs[1].edited, dict(pairs[1].meta)) == ("photos", None, {})
        assert color(open_pair(pairs[0])[1]) == (0, 0, 255)
        assert load_pairs(f"scenes:{path}")[1].domain == "scenes"

    def test_a_folder_with_a_manifest_is_read_by_it(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        draw(tmp_path / "b.png")
        write_lines(tmp_path / "manifest.jsonl", {"id": "only", "image": "a.png", "edited": "b.png"})
        assert ids(load_pairs(tmp_path)) == ["only"]

    def test_keys_of_another_vocabulary(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        draw(tmp_path / "b.png")
        record = {"input_images": ["a.png"], "output_images": ["b.png"], "prompt": "make it blue"}
        path = write_lines(tmp_path / "imgedit.jsonl", record)
        pairs = load_pairs(path, columns=("input_images", "output_images"))
        assert (ids(pairs), check_pairs(pairs).n_edited) == (["0000001"], 1)
        write_lines(path, {**record, "input_images": ["a.png", "b.png"]})
        with pytest.raises(PairSourceError, match=r'line 1: "input_images" must hold one path, got 2'):
            load_pairs(path, columns=("input_images", "output_images"))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{bad", "not valid JSON"),
            ("[1]", "expected a JSON object, got list"),
            ('{"id": "x"}', '"image" is missing'),
            ('{"image": "a.png"}', '"id" must be'),
            ('{"id": true, "image": "a.png"}', '"id" must be'),
            ('{"id": "x", "image": 3}', '"image" must be a path'),
            ('{"id": "a", "image": "a.png"}', "the id 'a' is already on line 1"),
            ('{"id": "x", "image": "a.png", "edit": "b.png"}', r"unknown keys \['edit'\]"),
            ('{"id": "x", "image": "a.png", "domain": "art"}', f'"domain" must be one of {", ".join(DOMAINS)}'),
            ('{"id": "x", "image": "a.png", "meta": 3}', '"meta" must be a JSON object'),
            ('{"id": "x", "image": "gone.png"}', r"gone\.png: no such file"),
            ('{"id": "x", "image": "gone/a.png"}', r"gone/a\.png: no such file"),
            ('{"id": "x", "image": "folder"}', "folder: no such file"),
            ('{"id": "x", "image": "a.png", "edited": "gone.png"}', r"gone\.png: no such file"),
            ('{"id": "x", "image": "../outside.png"}', "leaves the folder"),
            ('{"id": "x", "image": "folder/../../outside.png"}', "leaves the folder"),
            ('{"id": "x", "image": "/etc/hostname"}', "must be relative"),
            ('{"id": "x", "image": "link.png"}', "leaves the folder"),
            ('{"id": "x", "image": "a.png", "edited": "linked/outside.png"}', "leaves the folder"),
            ('{"id": "x", "image": "linked/../outside.png"}', "leaves the folder"),
            ('{"id": "x", "image": "a\\u0000.png"}', "must be relative"),
            ('{"id": "x\\ud800", "image": "a.png"}', "not valid JSON"),
        ],
    )
    def test_refusals_name_the_line(self, tmp_path: Path, line: str, message: str) -> None:
        root = tmp_path / "root"
        draw(root / "a.png")
        (root / "folder").mkdir()
        draw(tmp_path / "outside.png")
        draw(tmp_path / "far" / "deep" / "outside.png")
        draw(tmp_path / "far" / "outside.png")
        (root / "link.png").symlink_to(tmp_path / "outside.png")
        (root / "linked").symlink_to(tmp_path / "far" / "deep")
        path = write_lines(root / "m.jsonl", {"id": "a", "image": "a.png"}, line)
        with pytest.raises(PairSourceError, match=rf"m\.jsonl, line 2: .*{message}"):
            load_pairs(path)

    def test_links_within_the_folder_are_fine(self, tmp_path: Path) -> None:
        draw(tmp_path / "real" / "a.png")
        (tmp_path / "b.png").symlink_to("real/a.png")
        (tmp_path / "linked").symlink_to("real")
        path = write_lines(tmp_path / "m.jsonl", {"id": "1", "image": "b.png"}, {"id": "2", "image": "linked/a.png"})
        assert check_pairs(load_pairs(path)).n_opened == 2

    def test_bytes_that_are_not_utf8_and_a_byte_order_mark(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        path = tmp_path / "m.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"id": "a", "image": "a.png"}\r\n')
        assert ids(load_pairs(path)) == ["a"]
        path.write_bytes(b'{"id": "\xff", "image": "a.png"}\n')
        with pytest.raises(PairSourceError, match="line 1: not valid JSON"):
            load_pairs(path)

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(PairSourceError, match=r"m\.jsonl: the manifest is empty"):
            load_pairs(write_lines(tmp_path / "m.jsonl", ""))


# ------------------------------------------------------------------------------------------------- ChartQA and CLEVR


class TestChartQA:
    def make(self, root: Path, *names: str) -> Path:
        for name in names:
            draw(root / "png" / f"{name}.png")
            (root / "tables").mkdir(exist_ok=True)
            (root / "tables" / f"{name}.csv").write_text("Year,Value\n2001,3\n")
        return root

    def test_charts_with_their_tables(self, tmp_path: Path) -> None:
        pairs = load_pairs(self.make(tmp_path, "two", "one"))
        assert ids(pairs) == ["one", "two"]
        assert (pairs[0].domain, pairs[0].edited) == ("charts", None)
        assert pairs[0].meta["table"] == str(tmp_path / "tables" / "one.csv")

    def test_missing_partner(self, tmp_path: Path) -> None:
        self.make(tmp_path, "one", "two")
        (tmp_path / "tables" / "two.csv").unlink()
        with pytest.raises(PairSourceError, match=r"two\.png: its table .*two\.csv is missing"):
            load_pairs(tmp_path)
        self.make(tmp_path, "two")
        (tmp_path / "png" / "one.png").unlink()
        with pytest.raises(PairSourceError, match=r"one\.csv: its chart .*one\.png is missing"):
            load_pairs(tmp_path)

    def test_empty_and_two_of_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "png").mkdir()
        (tmp_path / "tables").mkdir()
        with pytest.raises(PairSourceError, match="no charts"):
            load_pairs(tmp_path)
        self.make(tmp_path, "one")
        draw(tmp_path / "png" / "one.jpg")
        with pytest.raises(PairSourceError, match=r"one\.jpg and one\.png"):
            load_pairs(tmp_path)


class TestClevr:
    def scene(self, name: str, **more: Any) -> dict[str, Any]:
        return {"image_filename": name, "objects": [{"shape": "cube", "color": "red"}], **more}

    def test_release_layout(self, tmp_path: Path) -> None:
        for split, number in (("train", 1), ("train", 0), ("val", 0), ("test", 0)):
            draw(tmp_path / "images" / split / f"CLEVR_{split}_{number}.png")
        for split, numbers in (("train", (1, 0)), ("val", (0,))):
            scenes = [self.scene(f"CLEVR_{split}_{n}.png", split=split) for n in numbers]
            write_json(tmp_path / "scenes" / f"CLEVR_{split}_scenes.json", {"info": {"split": split}, "scenes": scenes})
        pairs = load_pairs(tmp_path)
        assert ids(pairs) == ["train/CLEVR_train_0", "train/CLEVR_train_1", "val/CLEVR_val_0"]
        assert pairs[0].domain == "scenes"
        assert pairs[0].meta["objects"][0]["shape"] == "cube"
        assert check_pairs(pairs).n_opened == 3

    def test_generator_layout(self, tmp_path: Path) -> None:
        draw(tmp_path / "images" / "CLEVR_new_0.png")
        write_json(tmp_path / "scenes" / "CLEVR_new_0.json", self.scene("CLEVR_new_0.png"))
        write_json(tmp_path / "CLEVR_scenes.json", {"info": {}, "scenes": [self.scene("CLEVR_new_0.png")]})
        assert ids(load_pairs(tmp_path)) == ["CLEVR_new_0"]

    def test_refusals(self, tmp_path: Path) -> None:
        draw(tmp_path / "images" / "a.png")
        path = tmp_path / "CLEVR_scenes.json"
        for scenes, message in (
            ([self.scene("b.png")], r"CLEVR_scenes\.json, scene 0: the image b\.png is not in images/"),
            ([{}], "scene 0: no image_filename"),
            ([self.scene("a.png")] * 2, r"scene 1: a second scene for images/a\.png"),
            ([], "no scenes"),
            (None, "not a CLEVR scene file"),
        ):
            write_json(path, {"info": None, "scenes": scenes})
            with pytest.raises(PairSourceError, match=message):
                load_pairs(tmp_path)
        draw(tmp_path / "images" / "b.png")
        write_json(path, {"info": {}, "scenes": [self.scene("a.png")]})
        with pytest.raises(PairSourceError, match=r"b\.png: no scene in CLEVR_scenes\.json"):
            load_pairs(tmp_path)
        path.write_text('{"info": {},\n "scenes": [')
        with pytest.raises(PairSourceError, match=r"CLEVR_scenes\.json, line 2"):
            load_pairs(tmp_path)


# ------------------------------------------------------------------------------------------------------- `datasets`


def dataset(n: int = 3, **columns: str) -> Any:
    """A data set of encoded images; `columns` gives the colour of each image column."""
    import datasets

    def cells(color: str) -> list[Image.Image]:
        return [Image.new("RGB", (10 + row, 8), color) for row in range(n)]

    data: dict[str, Any] = {name: cells(value) for name, value in columns.items()}
    features = {name: datasets.Image() for name in columns}
    data["key"], features["key"] = [f"k{row}" for row in range(n)], datasets.Value("string")
    return datasets.Dataset.from_dict(data, features=datasets.Features(features))


class TestDatasets:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("original_image", "edited_image"),
            ("input_image", "edited_image"),
            ("source_img", "target_img"),
            ("src_img", "edited_img"),
            ("source_image", "edited_image"),
        ],
    )
    def test_known_columns(self, before: str, after: str) -> None:
        pairs = load_pairs(dataset(mask="white", **{before: "red", after: "blue"}))
        image, edited = open_pair(pairs[1])
        assert (image.size, color(image), color(edited)) == ((11, 8), (255, 0, 0), (0, 0, 255))
        assert ids(pairs) == ["0000000", "0000001", "0000002"]
        assert pairs[1].image.name == "the data set, row 1, column " + before
        assert isinstance(pairs[1].image, DatasetImage)
        assert len({pairs[0].image, pairs[0].image, pairs[1].image}) == 2
        assert pairs[1].image != load_pairs(dataset(**{before: "red"}))[1].image, "another table's cell"

    def test_named_columns_and_ids(self) -> None:
        data = dataset(x="red", y="blue")
        pairs = load_pairs(data, columns={"image": "y", "edited": "x", "id": "key"})
        assert ids(pairs) == ["k0", "k1", "k2"]
        assert color(open_pair(pairs[0])[0]) == (0, 0, 255)
        assert load_pairs(data, columns=("x", "y"))[0].edited is not None
        assert load_pairs(data, columns=("x",))[0].edited is None
        assert load_pairs(dataset(only="red"))[0].edited is None

    @pytest.mark.parametrize(
        ("columns", "named", "message"),
        [
            ({"a": "red", "b": "blue"}, None, "columns are a, b, key; which of a, b to read is not clear"),
            ({}, None, "columns are key; none of them holds images"),
            ({"a": "red"}, ("a", "b"), "columns are a, key; there is no b"),
            (
                {"input_image": "red", "source_image": "red", "edited_image": "blue"},
                None,
                "it could be input_image -> edited_image or source_image -> edited_image",
            ),
            ({"a": "red"}, {"edited": "a"}, "columns must name image"),
            ({"a": "red"}, {"image": "a", "edit": "a"}, "columns must name image"),
            ({"a": "red"}, "a", "columns must be"),
            ({"a": "red"}, ("a", "a", "a"), "columns must be"),
        ],
    )
    def test_unclear_columns(self, columns: dict[str, str], named: Any, message: str) -> None:
        with pytest.raises(PairSourceError, match=message):
            load_pairs(dataset(**columns), columns=named)

    def test_ids_must_be_unique(self) -> None:
        data = dataset(a="red").remove_columns("key").add_column("key", ["x", "y", "x"])
        with pytest.raises(PairSourceError, match="row 2: the key 'x' is already in row 0"):
            load_pairs(data, columns={"image": "a", "id": "key"})

    def test_selected_and_shuffled_rows(self) -> None:
        data = dataset(n=6, a="red").select([5, 1, 3])
        pairs = load_pairs(data, columns={"image": "a", "id": "key"})
        assert ids(pairs) == ["k5", "k1", "k3"]
        assert open_pair(pairs[0])[0].size == (15, 8)

    def test_save_to_disk_one_and_several_splits(self, tmp_path: Path) -> None:
        import datasets

        dataset(a="red").save_to_disk(str(tmp_path / "one"))
        assert check_pairs(load_pairs(tmp_path / "one")).n_opened == 3
        splits = datasets.DatasetDict({"test": dataset(n=1, a="red"), "train": dataset(n=2, a="red")})
        splits.save_to_disk(str(tmp_path / "two"))
        assert len(load_pairs(tmp_path / "two")) == 2
        assert len(load_pairs(tmp_path / "two" / "test")) == 1
        splits["dev"] = splits.pop("train")
        with pytest.raises(PairSourceError, match='the splits test, dev and none called "train"'):
            load_pairs(splits)

    def test_parquet_file_and_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        calls: list[Any] = []
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: calls.append(arguments) or [])
        (tmp_path / "set" / "data").mkdir(parents=True)
        path = tmp_path / "set" / "data" / "train-00000-of-00001.parquet"
        dataset(source_img="red", target_img="blue").to_parquet(str(path))
        for source in (path, tmp_path / "set"):
            pairs = load_pairs(source)
            assert color(open_pair(pairs[2])[1]) == (0, 0, 255)
            assert pairs[2].image.name == f"{source}, row 2, column source_img"
        path.write_bytes(b"not parquet")
        with pytest.raises(PairSourceError, match=r"train-00000-of-00001\.parquet: `datasets` cannot read it"):
            load_pairs(path)
        assert calls == [], "nothing is asked of the network"

    def test_image_folder_with_metadata(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        root = tmp_path / "set"
        draw(root / "a.png", color="red")
        draw(root / "b.png", color="blue")
        record = {"input_image_file_name": "a.png", "edited_image_file_name": "b.png"}
        write_lines(root / "metadata.jsonl", record)
        image, edited = open_pair(load_pairs(root)[0])
        assert (color(image), color(edited)) == ((255, 0, 0), (0, 0, 255))

    def test_paths_in_lists_stay_in_the_folder(self, tmp_path: Path) -> None:
        import datasets

        root = tmp_path / "imgedit"
        data = datasets.Dataset.from_dict(
            {
                "input_images": [["img/a.png"], ["img/a.png", "img/a.png"], [], ["img/gone.png"], ["../outside.png"]],
                "output_images": [["img/b.png"]] * 5,
            }
        )
        data.save_to_disk(str(root))
        draw(root / "img" / "a.png")
        draw(root / "img" / "b.png", color="blue")
        draw(tmp_path / "outside.png")
        pairs = load_pairs(root)
        assert color(open_pair(pairs[0])[1]) == (0, 0, 255)
        report = check_pairs(pairs, collect=True)
        reasons = [bad.reason for bad in report.bad]
        assert len(reasons) == 4
        assert "row 1, column input_images: the list must hold one image, it holds 2" in reasons[0]
        assert "it holds 0" in reasons[1]
        assert "gone.png: no such file" in reasons[2]
        assert "leaves the folder" in reasons[3]

    def test_lists_of_one_image(self) -> None:
        import datasets

        cells = [[Image.new("RGB", (9, 9), "red")]]
        features = datasets.Features({name: datasets.List(datasets.Image()) for name in ("before", "after")})
        data = datasets.Dataset.from_dict({"before": cells, "after": cells}, features=features)
        assert color(open_pair(load_pairs(data, columns=("before", "after"))[0])[1]) == (255, 0, 0)

    def test_encoded_bytes_and_paths_in_plain_columns(self, tmp_path: Path) -> None:
        import datasets

        path = draw(tmp_path / "a.png")
        data = datasets.Dataset.from_dict({"raw": [path.read_bytes()], "path": [str(path)]})
        image, edited = open_pair(load_pairs(data, columns=("raw", "path"))[0])
        assert color(image) == color(edited) == (255, 0, 0)

    def test_an_empty_data_set(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        with pytest.raises(PairSourceError, match="a data set: no pairs"):
            load_pairs([tmp_path, dataset(n=1, a="red").select([])])

    def test_bad_cells(self) -> None:
        import datasets

        buffers = [None, {"bytes": b"", "path": None}, {"bytes": b"text", "path": None}]
        data = datasets.Dataset.from_dict({"a": buffers}, features=datasets.Features({"a": datasets.Image()}))
        report = check_pairs(load_pairs(data), collect=True)
        assert [bad.reason.split(": ")[0] for bad in report.bad] == [
            f"the data set, row {row}, column a" for row in range(3)
        ]

    def test_an_image_can_be_sent_to_another_process(self) -> None:
        pair = load_pairs(dataset(a="red"))[1]
        assert pickle.loads(pickle.dumps(pair)).image.open().size == (11, 8)

    def test_importing_pairs_needs_neither_datasets_nor_torch(self) -> None:
        code = "import sys, vision_zero.data.pairs; print({'datasets', 'torch', 'numpy'} & set(sys.modules))"
        source = Path(image_files.__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(source)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "set()"


# --------------------------------------------------------------------------------------------------- several sources


class TestSeveralSources:
    def test_ids_begin_with_the_folder(self, tmp_path: Path) -> None:
        draw(tmp_path / "photos" / "a.png")
        draw_pairs(tmp_path / "drawn", "a", "b")
        pairs = load_pairs([tmp_path / "photos", f"scenes:{tmp_path / 'drawn'}", dataset(n=1, x="red")])
        assert ids(pairs) == ["photos/a.png", "drawn/a", "drawn/b", "dataset2/0000000"]
        assert [pair.domain for pair in pairs] == ["photos", "scenes", "scenes", "photos"]
        assert ids(pairs[1:3]) == ["drawn/a", "drawn/b"]
        assert check_pairs(pairs).n_opened == 4

    def test_equal_folder_names_take_more_of_the_path(self, tmp_path: Path) -> None:
        for name in ("x", "y"):
            draw(tmp_path / name / "images" / "a.png")
        pairs = load_pairs((tmp_path / "x" / "images", tmp_path / "y" / "images"))
        assert ids(pairs) == ["x/images/a.png", "y/images/a.png"]

    def test_a_list_of_one_is_the_source_itself(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        assert ids(load_pairs([tmp_path])) == ids(load_pairs(tmp_path))

    def test_refusals(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        with pytest.raises(PairSourceError, match="given twice"):
            load_pairs([tmp_path, tmp_path])
        with pytest.raises(PairSourceError, match="list of sources is empty"):
            load_pairs([])
        with pytest.raises(PairSourceError, match="got int"):
            load_pairs([tmp_path, 3])  # type: ignore[list-item]
        with pytest.raises(PairSourceError, match="got int"):
            load_pairs(3)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------- laziness, order, split


def listed(tmp_path: Path, n: int) -> Path:
    """A manifest of n pairs that all use one file."""
    draw(tmp_path / "a.png")
    lines = [f'{{"id": "{number}", "image": "a.png", "edited": "a.png"}}' for number in range(n)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    return tmp_path / "m.jsonl"


class TestLazy:
    def test_a_hundred_thousand_pairs_are_not_opened(self, tmp_path: Path, no_decoding: list[str]) -> None:
        path = listed(tmp_path, 100_000)
        started = time.process_time()
        pairs = load_pairs(path, split="train", holdout=0.1)
        assert time.process_time() - started < 10
        assert (len(pairs), no_decoding) == (90_000, [])
        assert len(pairs[10:80_000:7][5:]) == len(range(10, 80_000, 7)) - 5
        assert no_decoding == []
        open_pair(pairs[0])
        assert len(no_decoding) == 2

    def test_a_check_opens_the_sample_and_no_more(self, tmp_path: Path, no_decoding: list[str]) -> None:
        report = check_pairs(load_pairs(listed(tmp_path, 1000)), sample=5)
        assert (report.n_pairs, report.n_opened, len(no_decoding)) == (1000, 5, 10)

    def test_indexing_is_that_of_a_list(self, tmp_path: Path) -> None:
        pairs = load_pairs(listed(tmp_path, 10))
        names = [str(number) for number in range(10)]
        assert pairs[-1].id == "9"
        for index in (slice(None), slice(2, 8, 3), slice(None, None, -1), slice(50, 60), slice(-3, None)):
            assert ids(pairs[index]) == names[index]
        assert ids(pairs[::2][1:][::-1]) == names[::2][1:][::-1]
        for index in (10, -11):
            with pytest.raises(IndexError):
                pairs[index]
        assert pickle.loads(pickle.dumps(pairs))[3] == pairs[3]


class TestSplit:
    @settings(max_examples=60, deadline=None)
    @given(n=st.integers(2, 60), holdout=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
    def test_parts_are_disjoint_whole_and_stable(
        self, tmp_path_factory: pytest.TempPathFactory, n: int, holdout: float, seed: int
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"split{n}"
        path.mkdir(exist_ok=True)
        source = listed(path, n)
        if not 0 < round(holdout * n) < n:
            with pytest.raises(PairSourceError, match="leaves pairs on both sides"):
                load_pairs(source, split="train", holdout=holdout, seed=seed)
            return
        train = ids(load_pairs(source, split="train", holdout=holdout, seed=seed))
        heldout = ids(load_pairs(source, split="heldout", holdout=holdout, seed=seed))
        assert not set(train) & set(heldout)
        assert len(heldout) == round(holdout * n)
        assert sorted(train + heldout, key=int) == ids(load_pairs(source))
        assert train == sorted(train, key=int)
        assert train == ids(load_pairs(source, split="train", holdout=holdout, seed=seed))

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        path = listed(tmp_path, 50)
        parts = {tuple(ids(load_pairs(path, split="heldout", holdout=0.2, seed=seed))) for seed in range(5)}
        assert len(parts) == 5

    @pytest.mark.parametrize(
        ("split", "holdout", "message"),
        [
            ("train", 0.0, "needs a holdout"),
            ("heldout", 0.01, "0.01 of 10 pairs is 0"),
            ("train", 1.0, "below 1"),
            (None, -0.1, "at least 0"),
            ("test", 0.5, "got 'test'"),
        ],
    )
    def test_refusals(self, tmp_path: Path, split: Any, holdout: float, message: str) -> None:
        with pytest.raises(PairSourceError, match=message):
            load_pairs(listed(tmp_path, 10), split=split, holdout=holdout)


# ------------------------------------------------------------------------------------------------------- one image


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def truncated(path: Path) -> Path:
    noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    noise.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


BAD_IMAGES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated.jpg": (truncated, "damaged or truncated"),
    "truncated.png": (truncated, "damaged or truncated"),
    "truncated.webp": (truncated, "damaged or truncated"),
    "bomb.png": (lambda path: png_header(path, 50_000, 50_000), "more than the allowed"),
    "large.png": (lambda path: png_header(path, 10_000, 8_001), "10000x8001, more than the allowed 80000000"),
    "nothing.png": (lambda path: png_header(path, 0, 5), r""),
    "thin.png": (lambda path: draw(path, (2, 402)), "2x402, its sides differ by more than 200:1"),
    "text.png": (lambda path: written(path, b"I am a text"), "not an image"),
    "page.jpg": (lambda path: written(path, b"<html>404</html>"), "not an image"),
    "script.png": (lambda path: written(path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image"),
    "empty.png": (lambda path: written(path, b""), "the file is empty"),
    "float.tif": (lambda path: draw(path, mode="F", color=0.5), "floating-point"),
}


class TestOneImage:
    @pytest.mark.parametrize("name", BAD_IMAGES)
    def test_bad_images_are_refused_by_name(self, tmp_path: Path, name: str) -> None:
        make, message = BAD_IMAGES[name]
        path = make(tmp_path / name)
        limit = Image.MAX_IMAGE_PIXELS
        with pytest.raises(BadImageError, match=rf"^{path}: .*{message}"):
            load_pairs(tmp_path)[0].image.open()
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_file_that_vanished_or_is_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadImageError, match=r"gone\.png: cannot be read: No such file"):
            ImageFile(tmp_path / "gone.png").open()
        with pytest.raises(BadImageError, match=f"{tmp_path}: cannot be read"):
            ImageFile(tmp_path).open()

    @settings(max_examples=150, deadline=None)
    @given(
        cut=st.integers(0, 700), at=st.integers(0, 700), byte=st.integers(0, 255), kind=st.sampled_from(["png", "jpg"])
    )
    def test_damaged_bytes_never_raise_anything_else(
        self, tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int, kind: str
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
        Image.frombytes("RGB", (12, 12), random.Random(1).randbytes(12 * 12 * 3)).save(path)
        data = bytearray(path.read_bytes())
        data[at % len(data)] = byte
        path.write_bytes(data[: len(data) - cut % len(data)])
        # Whether some damage goes unseen is the format's matter; that nothing but BadImageError comes is ours.
        with contextlib.suppress(BadImageError):
            assert ImageFile(path).open().mode == "RGB"

    @pytest.mark.parametrize(("mode", "clear"), [("RGBA", (9, 9, 9, 0)), ("LA", (9, 0))])
    def test_transparency_becomes_white(self, tmp_path: Path, mode: str, clear: Any) -> None:
        assert color(ImageFile(draw(tmp_path / "a.png", mode=mode, color=clear)).open()) == (255, 255, 255)

    def test_half_transparency_and_palettes(self, tmp_path: Path) -> None:
        half = draw(tmp_path / "half.png", mode="RGBA", color=(0, 0, 0, 128))
        assert color(ImageFile(half).open()) == (127, 127, 127)
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 200, 10, 20])
        image.save(tmp_path / "solid.png")
        image.save(tmp_path / "clear.png", transparency=1)
        image.save(tmp_path / "clear.gif", transparency=1)
        assert color(ImageFile(tmp_path / "solid.png").open()) == (200, 10, 20)
        assert color(ImageFile(tmp_path / "clear.png").open()) == (255, 255, 255)
        assert color(ImageFile(tmp_path / "clear.gif").open()) == (255, 255, 255)
        draw(tmp_path / "key.png", color=(1, 2, 3), transparency=(1, 2, 3))
        assert color(ImageFile(tmp_path / "key.png").open()) == (255, 255, 255)

    @pytest.mark.parametrize(("value", "grey"), [(0, 0), (32768, 127), (65535, 255), (257, 1)])
    def test_sixteen_bit_is_scaled(self, tmp_path: Path, value: int, grey: int) -> None:
        for name in ("a.png", "a.tif"):
            assert color(ImageFile(draw(tmp_path / name, mode="I;16", color=value)).open()) == (grey, grey, grey)

    @pytest.mark.parametrize(
        ("mode", "name", "value", "expected"),
        [
            ("L", "a.png", 77, (77, 77, 77)),
            ("1", "a.png", 1, (255, 255, 255)),
            ("CMYK", "a.tif", (0, 0, 0, 255), (0, 0, 0)),
            ("CMYK", "a.tif", (0, 0, 0, 0), (255, 255, 255)),
        ],
    )
    def test_other_modes(self, tmp_path: Path, mode: str, name: str, value: Any, expected: Any) -> None:
        assert color(ImageFile(draw(tmp_path / name, mode=mode, color=value)).open()) == expected

    def test_exif_orientation(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (16, 8), "black")
        image.paste("white", (0, 0, 8, 8))
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: the left side belongs on top
        image.save(tmp_path / "a.png", exif=exif)
        opened = ImageFile(tmp_path / "a.png").open()
        assert opened.size == (8, 16)
        assert (opened.getpixel((4, 2)), opened.getpixel((4, 13))) == ((255, 255, 255), (0, 0, 0))


# ------------------------------------------------------------------------------------------------ pairs and reports


class TestOpenAndCheck:
    def pair(self, tmp_path: Path, size: tuple[int, int], edited: tuple[int, int]) -> ImagePair:
        draw(tmp_path / "a_original.png", size)
        draw(tmp_path / "a_modified.png", edited)
        return load_pairs(tmp_path)[0]

    @pytest.mark.parametrize("edited", [(100, 80), (200, 160), (50, 40), (102, 80), (100, 79)])
    def test_an_edit_of_the_same_shape_is_resized(self, tmp_path: Path, edited: tuple[int, int]) -> None:
        image, other = open_pair(self.pair(tmp_path, (100, 80), edited))
        assert other is not None
        assert image.size == other.size == (100, 80)

    @pytest.mark.parametrize("edited", [(103, 80), (97, 80), (80, 100), (100, 10)])
    def test_an_edit_of_another_shape_is_refused(self, tmp_path: Path, edited: tuple[int, int]) -> None:
        message = rf"a_modified\.png is {edited[0]}x{edited[1]} but .*a_original\.png is 100x80"
        with pytest.raises(BadImageError, match=message):
            open_pair(self.pair(tmp_path, (100, 80), edited))

    def test_report(self, tmp_path: Path) -> None:
        for number, size in enumerate([(40, 30), (10, 10), (20, 20)]):
            draw(tmp_path / f"{number}_original.png", size, "red")
            draw(tmp_path / f"{number}_modified.png", size, "red" if number == 0 else "blue")
        calls: list[int] = []
        report = check_pairs(load_pairs(tmp_path), bar=lambda rows: calls.extend(rows) or rows)
        assert calls == [0, 1, 2]
        assert (report.n_pairs, report.n_edited, report.n_opened, report.n_identical) == (3, 3, 3, 1)
        assert report.domains == {"photos": 3}
        assert report.sizes == [(10, 10), (20, 20), (40, 30)]
        assert report.bad == ()

    def test_bad_pairs_are_raised_or_listed(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        written(tmp_path / "b.png", b"text")
        pairs = load_pairs(tmp_path)
        with pytest.raises(BadImageError, match=r"b\.png"):
            check_pairs(pairs)
        report = check_pairs(pairs, collect=True)
        assert [bad.id for bad in report.bad] == ["b.png"]
        assert str(tmp_path / "b.png") in report.bad[0].reason
        assert report.n_opened == 1

    def test_the_sample_is_seeded(self, tmp_path: Path, no_decoding: list[str]) -> None:
        for number in range(30):
            draw(tmp_path / f"{number:02d}.png")
        pairs = load_pairs(tmp_path)
        runs = []
        for seed in (1, 1, 2):
            no_decoding.clear()
            check_pairs(pairs, sample=5, seed=seed)
            runs.append(tuple(no_decoding))
        assert runs[0] == runs[1] != runs[2]
