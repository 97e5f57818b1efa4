"""Ready-made sets from local folders in the formats that are published: tables, archives of pairs, ChartQA, ImgEdit."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from vision_zero.data.drawn_scenes import comparison, draw, scenes_of
from vision_zero.data.pairs import load_pairs, open_pair
from vision_zero.make_data import __main__ as make_data
from vision_zero.make_data.download import sets
from vision_zero.make_data.download.sets import SETS

ROOT = Path(__file__).resolve().parents[3]


def fetch(name: str, source: Path, out: Path, *options: str) -> int:
    return make_data.main(["download", name, "--source", str(source), "--out", str(out), *options])


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def scene(number: int, size: int = 56) -> tuple[bytes, bytes, bytes]:
    """Original, modified and comparison of a drawn pair, as files."""
    before, after = scenes_of(number)
    text = json.dumps(comparison(before, after, size)).encode()
    return encoded(draw(before, size)), encoded(draw(after, size)), text


def table(folder: Path, before: str, after: str, rows: list[dict[str, Any]]) -> None:
    """A parquet file as the Hub has them: image cells with their bytes."""
    features = {before: datasets.Image(), after: datasets.Image(), "instruction": datasets.Value("string")}
    folder.mkdir(parents=True)
    cells = [{before: row["before"], after: row["after"], "instruction": row.get("say", "")} for row in rows]
    table = datasets.Dataset.from_list(
        [{**cell, before: image(cell[before]), after: image(cell[after])} for cell in cells],
        features=datasets.Features(features),
    )
    table.to_parquet(str(folder / "train-00000-of-00001.parquet"))


def image(data: bytes | None) -> dict[str, Any] | None:
    return None if data is None else {"bytes": data, "path": None}


def rows(n: int) -> list[dict[str, Any]]:
    made = [scene(number) for number in range(n)]
    return [{"before": one[0], "after": one[1], "say": f"edit {number}"} for number, one in enumerate(made)]


@pytest.mark.parametrize("name", [name for name, one in SETS.items() if one.layout == "table"])
def test_every_known_table(name: str, tmp_path: Path) -> None:
    columns = SETS[name].columns
    assert columns is not None
    table(tmp_path / "copy" / "data", *columns, rows(3))
    assert fetch(name, tmp_path / "copy", tmp_path / "out", "--split", "train") == 0
    pairs = load_pairs(tmp_path / "out")
    assert [pair.id for pair in pairs] == ["0000000", "0000001", "0000002"]
    for number, pair in enumerate(pairs):
        before, after = scenes_of(number)
        original, edited = open_pair(pair)
        assert edited is not None
        assert (original.tobytes(), edited.tobytes()) == (draw(before, 56).tobytes(), draw(after, 56).tobytes())
        assert dict(pair.meta) == {"instruction": f"edit {number}"}
        assert pair.domain == "photos"


def test_rows_that_are_dropped_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, other = scene(0), scene(1)
    wide = encoded(Image.new("RGB", (90, 30)))
    bad = [
        {"before": good[0], "after": None},
        {"before": b"text", "after": good[1]},
        {"before": good[0], "after": good[0]},
        {"before": good[0], "after": wide},
        {"before": good[0][:200], "after": good[1]},
    ]
    fine = [{"before": good[0], "after": good[1]}, {"before": other[0], "after": other[1]}]
    table(tmp_path / "copy", "source_img", "target_img", [fine[0], *bad, fine[1]])
    assert fetch("magicbrush", tmp_path / "copy", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["kept"], sum(summary["dropped"].values()), summary["source_complete"]) == (2, 5, True)
    assert len(summary["dropped"]) == 5
    assert [pair.id for pair in load_pairs(tmp_path / "out")] == ["0000000", "0000006"]
    printed = capsys.readouterr().out
    assert "the edited image equals the original" in printed
    assert "no image in target_img" in printed


def test_a_limit_grows_and_a_torn_journal_is_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "copy", "source_img", "target_img", rows(6))
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert fetch("magicbrush", tmp_path / "copy", whole) == 0
    assert fetch("magicbrush", tmp_path / "copy", out, "--limit", "2") == 0
    assert "the set has more" in capsys.readouterr().out
    assert len(load_pairs(out)) == 2
    with open(out / "fetched.jsonl", "ab") as journal:
        journal.write(b'{"id": "00000')
    assert fetch("magicbrush", tmp_path / "copy", out, "--limit", "4") == 0
    assert fetch("magicbrush", tmp_path / "copy", out) == 0
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    for file in files - {"source.json"}:
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    assert fetch("magicbrush", tmp_path / "copy", out, "--limit", "3") == 1
    assert "holds 6 pairs already, more than --limit 3" in capsys.readouterr().err


def test_a_fetch_that_is_killed_continues(tmp_path: Path) -> None:
    table(tmp_path / "copy", "source_img", "target_img", rows(40))
    out = tmp_path / "out"
    words = ["magicbrush", "--source", str(tmp_path / "copy"), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vision_zero.make_data", "download", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (out / "fetched.jsonl").is_file() and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert make_data.main(["download", *words]) == 0
    assert [pair.id for pair in load_pairs(out)] == [f"{number:07d}" for number in range(40)]


def test_other_columns_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "copy", "a", "b", rows(2))
    assert (
        fetch("somebody/edits", tmp_path / "copy", tmp_path / "out", "--columns", "b", "a", "--domain", "charts") == 0
    )
    pair = load_pairs(tmp_path / "out")[0]
    assert (pair.domain, open_pair(pair)[0].tobytes()) == ("charts", draw(scenes_of(0)[1], 56).tobytes())
    for options, message in (
        (("somebody/edits",), "the columns are a, b, instruction; name two of them with --columns IMAGE EDITED"),
        (("somebody/edits", "--columns", "a", "c"), "the columns are a, b, instruction"),
        (("magicbrsh",), "not a known set"),
    ):
        words = [options[0], "--source", str(tmp_path / "copy"), "--out", str(tmp_path / "no"), *options[1:]]
        assert make_data.main(["download", *words]) == 1
        assert message in capsys.readouterr().err


def official(add: Any, prefix: str = "output/") -> None:
    """Three pairs as the official CLEVR set has them, one without its modified image."""
    for number in range(3):
        name = f"CLEVR_REPLACEMENT_replacement_{number:06d}"
        original, modified, text = scene(number)
        add(f"{prefix}replacement_images/{name}_original.png", original)
        add(f"{prefix}replacement_scenes/{name}_comparison.json", text)
        if number != 1:
            add(f"{prefix}replacement_images/{name}_modified.png", modified)
    add(f"{prefix}CLEVR_scenes.json", b"{}")
    add("__MACOSX/output/._x_original.png", b"not an image")


def write(folder: Path) -> Any:
    def add(name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return add


@pytest.mark.parametrize("packed", ["folder", "zip", "tar.gz"])
def test_official_set(packed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    copy.mkdir()
    if packed == "folder":
        official(write(copy))
    elif packed == "zip":
        with zipfile.ZipFile(copy / "clevr.zip", "w") as archive:
            official(archive.writestr)
    else:
        with tarfile.open(copy / "clevr.tar.gz", "w:gz") as tar:
            official(lambda name, data: tar.addfile(member(name, data), io.BytesIO(data)))
    (copy / "README.md").write_text("what it is")
    assert fetch("vision-zero-clevr", copy, out) == 0
    assert "dropped       1  the modified image is missing" in capsys.readouterr().out
    pairs = load_pairs(out)
    assert [pair.id[-6:] for pair in pairs] == ["000000", "000002"]
    assert {pair.domain for pair in pairs} == {"scenes"}
    by_folder = load_pairs(out / "images", scenes=out / "scenes")  # IMAGES_DIR and SCENES_DIR of the official script
    for number, pair, again in zip((0, 2), pairs, by_folder, strict=True):
        before, after = scenes_of(number)
        assert dict(pair.meta) == dict(again.meta) == comparison(before, after, 56)
        assert [one.tobytes() for one in open_pair(pair) if one] == [draw(one, 56).tobytes() for one in (before, after)]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("hurt", ["at a border", "in a header", "a header is none"])
def test_a_tar_that_was_cut_off_is_damaged(
    name: str, hurt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tarfile` itself takes each of these for the end of a tar of one member."""
    stream, copy = io.BytesIO(), tmp_path / "copy"
    copy.mkdir()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for one, data in (("0_original.png", scene(0)[0]), ("0_modified.png", scene(0)[1])):
            tar.addfile(member(one, data), io.BytesIO(data))
    whole = stream.getvalue()
    second = border_in(whole)
    packed = gzip.compress if name.endswith(".gz") else bytes
    pieces = {
        "at a border": whole[:second],
        "in a header": whole[: second + 100],
        "a header is none": whole[:second] + b"x" * 512 + whole[second + 512 :],
    }
    (copy / name).write_bytes(packed(pieces[hurt]))
    assert fetch("vision-zero-realworld", copy, tmp_path / "out") == 1
    reason = "neither a file nor the end mark" if hurt == "a header is none" else "it was cut off"
    error = capsys.readouterr().err
    assert f"{name}: the archive is damaged" in error
    assert reason in error
    (copy / name).write_bytes(packed(whole))
    assert fetch("vision-zero-realworld", copy, tmp_path / "out") == 0
    (copy / name).write_bytes(packed(whole[: second + 512 + -(-len(scene(0)[1]) // 512) * 512 + 512]))
    assert fetch("vision-zero-realworld", copy, tmp_path / "lone") == 0  # one block of zeros is an end mark too


def member(name: str, data: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"./{name}")
    info.size = len(data)
    return info


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    original, modified, _ = scene(0)
    with zipfile.ZipFile(copy / "evil.zip", "w") as archive:
        archive.writestr("../../evil_original.png", original)
        archive.writestr("../../evil_modified.png", modified)
    assert fetch("vision-zero-realworld", copy, tmp_path / "out") == 0
    assert [pair.id for pair in load_pairs(tmp_path / "out")] == ["evil"]
    assert not list(tmp_path.glob("evil*"))


def test_a_set_without_pairs_and_a_damaged_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    write(copy)("data/a.png", scene(0)[0])
    assert fetch("vision-zero-chart", copy, tmp_path / "out") == 1
    assert "no images called NAME_original and NAME_modified among 1 files (data/a.png)" in capsys.readouterr().err
    write(copy)("b.zip", b"PK no archive")
    assert fetch("vision-zero-chart", copy, tmp_path / "out") == 1
    assert "b.zip: the archive is damaged" in capsys.readouterr().err


def test_a_zip_of_a_windows_program_is_read(tmp_path: Path) -> None:
    """Some write `images\\NAME` where the format has `images/NAME`."""
    copy = tmp_path / "copy"
    copy.mkdir()
    with zipfile.ZipFile(copy / "a.zip", "w") as archive:
        for part, image in zip(("original", "modified"), scene(0), strict=False):
            archive.writestr(f"train\\images\\one_{part}.png", image)
    assert fetch("vision-zero-realworld", copy, tmp_path / "out") == 0
    assert [pair.id for pair in load_pairs(tmp_path / "out")] == ["one"]


def test_an_archive_of_an_unsupported_compression_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with zipfile.ZipFile(copy / "big.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        official(archive.writestr)
    data = (copy / "big.zip").read_bytes()
    deflate64 = data.replace(b"PK\3\4\x14\0\0\0\x08", b"PK\3\4\x14\0\0\0\x09")
    deflate64 = deflate64.replace(b"PK\1\2\x14\3\x14\0\0\0\x08", b"PK\1\2\x14\3\x14\0\0\0\x09")
    (copy / "big.zip").write_bytes(deflate64)
    assert fetch("vision-zero-clevr", copy, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "big.zip" in error
    assert "compression method" in error


def password(data: bytes) -> bytes:
    """The zip with the flag of encryption at all members."""
    changed = bytearray(data)
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = changed.find(mark)
        while start >= 0:
            changed[start + at] |= 1
            start = changed.find(mark, start + 4)
    return bytes(changed)


@pytest.mark.parametrize(
    ("hurt", "reason"),
    [
        (password, "encrypted, password required"),
        (lambda data: data.replace(b"IHDR", b"IHDX"), "Bad CRC-32"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS pointer"),
    ],
)
def test_an_archive_that_cannot_be_unpacked_is_named(
    hurt: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with zipfile.ZipFile(copy / "pairs.zip", "w") as archive:
        official(archive.writestr)
    (copy / "pairs.zip").write_bytes(hurt((copy / "pairs.zip").read_bytes()))
    assert fetch("vision-zero-clevr", copy, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "copy/pairs.zip" in error
    assert reason in error


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("part", ["original.png", "comparison.json"])
def test_a_file_that_unpacks_to_more_than_an_image_is_dropped(
    kind: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "MAX_IMAGE_BYTES", 2 << 20)
    monkeypatch.setattr(sets, "MAX_TEXT_BYTES", 2 << 20)
    copy, files = (
        tmp_path / "copy",
        dict(zip(("original.png", "modified.png", "comparison.json"), scene(0), strict=True)),
    )
    copy.mkdir()
    wanted = {f"0_{name}": data for name, data in files.items()}
    wanted |= {f"1_{name}": bytes(40 << 20) if name == part else data for name, data in files.items()}
    if kind == "zip":
        with zipfile.ZipFile(copy / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in wanted.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(copy / "a.tar.gz", "w:gz") as tar:
            for name, data in wanted.items():
                tar.addfile(member(name, data), io.BytesIO(data))
    tracemalloc.start()
    assert fetch("vision-zero-clevr", copy, tmp_path / "out") == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    assert "dropped       1  a file in an archive unpacks to more than 2 MiB" in capsys.readouterr().out
    assert [pair.id for pair in load_pairs(tmp_path / "out")] == ["0"]


def test_chartqa(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with zipfile.ZipFile(copy / "ChartQA Dataset.zip", "w") as archive:
        for split, n in (("train", 3), ("test", 1)):
            for number in range(n):
                archive.writestr(f"ChartQA Dataset/{split}/png/{number}.png", scene(number)[0])
                archive.writestr(f"ChartQA Dataset/{split}/annotations/{number}.json", "{}")
                if number != 1:
                    archive.writestr(f"ChartQA Dataset/{split}/tables/{number}.csv", f"a,b\n{number},2\n")
    assert fetch("chartqa", copy, tmp_path / "out") == 0
    pairs = load_pairs(tmp_path / "out")
    assert [(pair.id, pair.domain, pair.edited) for pair in pairs] == [("0", "charts", None), ("2", "charts", None)]
    assert Path(pairs[1].meta["table"]).read_text() == "a,b\n2,2\n"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dropped"] == {"no file in tables": 1}
    assert fetch("chartqa", copy, tmp_path / "test", "--split", "test") == 0
    assert len(load_pairs(tmp_path / "test")) == 1


def imgedit(copy: Path) -> None:
    """Four rows; the first archive is cut into parts of 1000 bytes, the last row's result is in no archive."""
    root = "results_remove_laion_part5"
    paths = [f"{root}/{number:05d}_{number:09d}" for number in range(4)]
    table = {
        "input_images": [[f"{path}/original.png"] for path in paths] + [["a.png", "b.png"]],
        "output_images": [[f"{path}/result.png"] for path in paths] + [["c.png"]],
        "prompt": [f"Remove object {number}." for number in range(5)],
    }
    (copy / "Parquet").mkdir(parents=True)
    datasets.Dataset.from_dict(table).to_parquet(str(copy / "Parquet" / "remove_part5.parquet"))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number, path in enumerate(paths):
            for name, data in (
                ("result.png", scene(number)[1]),
                ("original.png", scene(number)[0]),
                ("mask.png", b"m"),
            ):
                if (number, name) != (3, "result.png"):
                    tar.addfile(member(f"{path}/{name}", data), io.BytesIO(data))
    (copy / "Singleturn").mkdir()
    data = stream.getvalue()
    for number, start in enumerate(range(0, len(data), 1000)):
        part = copy / "Singleturn" / f"{root}.tar.split.{number:03d}"
        part.write_bytes(data[start : start + 1000])
    (copy / "Singleturn" / "results_add_part1.tar").write_bytes(b"never opened")


def border_in(data: bytes) -> int:
    """Where the second file of a tar begins."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        first = tar.next()
    assert first is not None
    return first.offset_data + -(-first.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def test_imgedit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    imgedit(copy)
    assert fetch("imgedit", copy, out) == 1
    assert "name a --part, one of remove_part5" in capsys.readouterr().err
    assert fetch("imgedit", copy, tmp_path / "first", "--part", "remove_part5", "--limit", "1") == 0
    assert fetch("imgedit", copy, tmp_path / "first", "--part", "remove_part5") == 0  # continues in the stream
    pairs = load_pairs(tmp_path / "first")
    assert [pair.id for pair in pairs] == ["0000000", "0000001", "0000002"]
    assert pairs[1].meta["prompt"] == "Remove object 1."
    assert open_pair(pairs[1])[0].tobytes() == draw(scenes_of(1)[0], 56).tobytes()
    assert json.loads((tmp_path / "first" / "summary.json").read_text())["dropped"] == {
        "an image is not in the archives": 1,
        "the row is not one image and its edit, or repeats one": 1,
    }
    cut = sorted((copy / "Singleturn").glob("*.split.*"))
    whole = b"".join(part.read_bytes() for part in cut)
    for part in cut[2:]:  # the end comes within an image
        part.unlink()
    assert fetch("imgedit", copy, tmp_path / "second", "--part", "remove_part5") == 1
    assert "is damaged or lacks a part" in capsys.readouterr().err
    cut[0].write_bytes(whole[: border_in(whole)])
    cut[1].write_bytes(b"")
    assert fetch("imgedit", copy, tmp_path / "second", "--part", "remove_part5") == 1
    assert "is damaged or lacks a part (2 found): it ends without its end mark" in capsys.readouterr().err
    cut[0].unlink()
    assert fetch("imgedit", copy, tmp_path / "second", "--part", "remove_part5") == 1
    assert "part 0 of results_remove_laion_part5.tar is missing before it" in capsys.readouterr().err
    for path in (copy / "Singleturn").glob("*.split.*"):
        path.unlink()
    assert fetch("imgedit", copy, tmp_path / "third", "--part", "remove_part5") == 1
    assert "name one with --archives: results_add_part1" in capsys.readouterr().err


def test_folders_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "copy", "source_img", "target_img", rows(1))
    out = tmp_path / "out"
    assert fetch("magicbrush", tmp_path / "copy", out) == 0
    assert fetch("omniedit", tmp_path / "copy", out) == 1
    assert "another source was begun there" in capsys.readouterr().err
    assert fetch("magicbrush", tmp_path / "copy", tmp_path / "copy") == 1
    assert "was not begun by this program" in capsys.readouterr().err
    assert fetch("magicbrush", tmp_path / "nowhere", tmp_path / "new") == 1
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["magicbrush", "vision-zero-clevr"])
def test_without_a_network_it_says_what_to_do(name: str, tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "vision_zero.make_data", "download", name, "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"error: {SETS[name].repo} cannot be fetched: ")
    assert f"hf download --repo-type dataset {SETS[name].repo} --local-dir FOLDER" in finished.stderr
    assert "Traceback" not in finished.stderr


def from_hub(copy: Path, repo: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The program with the real clients of the Hub, which they find at a local server of the folder `copy`."""
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "make_data" / "download" / "hub_server.py"), str(copy), repo],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.stdout.readline().strip()}", "HF_HOME": str(home)}
        own |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return subprocess.run(
            [sys.executable, "-m", "vision_zero.make_data", "download", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **own},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.kill()
        server.wait()


def test_an_archive_on_the_hub(tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    copy.mkdir()
    with zipfile.ZipFile(copy / "clevr.zip", "w") as archive:
        official(archive.writestr)
    name = "vision-zero-clevr"
    finished = from_hub(copy, SETS[name].repo, tmp_path / "home", name, "--out", str(out))
    assert finished.returncode == 0, finished.stderr
    assert fetch(name, copy, tmp_path / "local") == 0
    assert (out / "manifest.jsonl").read_bytes() == (tmp_path / "local" / "manifest.jsonl").read_bytes()


def test_a_table_on_the_hub_is_streamed_and_continued(tmp_path: Path) -> None:
    table(tmp_path / "copy" / "data", "source_img", "target_img", rows(5))
    words = ["magicbrush", "--out", str(tmp_path / "out")]
    for limit, ids in (("2", range(2)), ("4", range(4))):
        finished = from_hub(tmp_path / "copy", "osunlp/MagicBrush", tmp_path / "home", *words, "--limit", limit)
        assert finished.returncode == 0, finished.stderr
        assert "the set has more" in finished.stdout
        assert [pair.id for pair in load_pairs(tmp_path / "out")] == [f"{number:07d}" for number in ids]


def test_imgedit_on_the_hub_at_a_revision(tmp_path: Path) -> None:
    imgedit(tmp_path / "copy")
    words = ["imgedit", "--part", "remove_part5", "--revision", "v1", "--out", str(tmp_path / "out")]
    finished = from_hub(tmp_path / "copy", "sysuyy/ImgEdit", tmp_path / "home", *words)
    assert finished.returncode == 0, finished.stderr
    assert len(load_pairs(tmp_path / "out")) == 3


def test_of_imgedit_only_the_parts_that_a_limit_needs_are_fetched(tmp_path: Path) -> None:
    imgedit(tmp_path / "copy")
    words = ["imgedit", "--part", "remove_part5", "--limit", "1", "--out", str(tmp_path / "out")]
    finished = from_hub(tmp_path / "copy", "sysuyy/ImgEdit", tmp_path / "home", *words)
    assert finished.returncode == 0, finished.stderr
    fetched = {path.name for path in (tmp_path / "home").rglob("*.split.*")}
    there = {path.name for path in (tmp_path / "copy" / "Singleturn").glob("*.split.*")}
    assert fetched
    assert fetched < there


def test_a_set_that_is_not_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for name in ("vision-zero-chart", "omniedit"):
        words = [name, "--out", str(tmp_path / name)]
        finished = from_hub(tmp_path / "copy", "somebody/else", tmp_path / "home", *words)
        assert finished.returncode == 1
        assert finished.stderr.startswith(f"error: {SETS[name].repo} cannot be fetched: "), finished.stderr
        assert "Traceback" not in finished.stderr
