"""The frame of making pairs: the same bytes whatever happens on the way, and what it refuses. The maker is a small real
one (drawn scenes); programs that are killed are killed for real."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.make_data.drawn_maker import DrawnMaker
from tests.process_helpers import kill
from vision_zero.data.pairs import load_pairs, open_pair
from vision_zero.make_data import __main__ as make_data
from vision_zero.make_data.maker import attempt_pair, attempt_rng, changed_share
from vision_zero.make_data.output import make_summary

ROOT = Path(__file__).resolve().parents[2]
DRAWN = {"drawn": "tests.make_data.drawn_maker"}
TIMEOUT = 60


def make(out: Path, *options: str, n: int = 6, workers: int = 1) -> int:
    return make_data.main(["drawn", "--out", str(out), "--n", str(n), "--workers", str(workers), *options], DRAWN)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pairs_of(folder: Path) -> dict[str, bytes]:
    """The files of the pairs alone: what a set has in common with a larger one."""
    return {name: data for name, data in contents(folder).items() if "/" in name}


@contextmanager
def program(out: Path, *options: str, n: int = 6, workers: int = 2, **setup: object) -> Iterator[subprocess.Popen[str]]:
    """The command line in a session of its own, all of which is killed at the end of the block."""
    command = [sys.executable, "-m", "tests.make_data.drawn_maker", "drawn", "--out", str(out), "--n", str(n)]
    process = subprocess.Popen(
        [*command, "--workers", str(workers), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **setup,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        kill(process)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, "the program ended before what was waited for"
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def n_records(out: Path) -> int:
    return len(list(out.glob("records/*.json")))


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs made by one worker without a disturbance."""
    out = tmp_path_factory.mktemp("six") / "out"
    assert make(out) == 0
    return out


def test_what_is_in_the_folder(six: Path) -> None:
    names = [f"drawn_{number:06d}" for number in range(6)]
    per_pair = [
        [f"images/{name}_original.png", f"images/{name}_modified.png", f"scenes/{name}_comparison.json"]
        for name in names
    ]
    records = [f"records/{name}.json" for name in names]
    others = [".lock", "manifest.jsonl", "options.json", "sheet.jpg", "summary.json"]
    assert sorted(contents(six)) == sorted([*(name for names in per_pair for name in names), *records, *others])
    with Image.open(six / "sheet.jpg") as sheet:
        assert sheet.width > 400


def test_the_manifest_is_read_as_pairs(six: Path) -> None:
    pairs = load_pairs(six)
    assert [pair.id for pair in pairs] == [f"drawn_{number:06d}" for number in range(6)]
    assert {pair.domain for pair in pairs} == {"scenes"}
    assert list(json.loads((six / "manifest.jsonl").read_text().splitlines()[0])) == [
        *("id", "image", "edited", "domain", "meta")
    ]
    for number, pair in enumerate(pairs):
        made, _ = attempt_pair(DrawnMaker(56, "none", -1, 0.0, None), _make_here, 0, number)
        assert made is not None
        original, edited = open_pair(pair)
        assert edited is not None
        assert (original.tobytes(), edited.tobytes()) == (made.original.tobytes(), made.edited.tobytes())
        assert dict(pair.meta) == made.meta
        document = json.loads((six / "scenes" / f"{pair.id}_comparison.json").read_text())
        assert document == made.documents["scenes/comparison"]
    # The layout of the official sets is there too.
    assert dict(load_pairs(six / "images", scenes=six / "scenes")[2].meta) == document_of(six, 2)


def _make_here(rng, number):  # type: ignore[no-untyped-def]
    """The maker in this process, where the number of threads is whatever it is; workers have one."""
    made = DrawnMaker(56, "none", -1, 0.0, None).make(rng, number)
    return type(made)(made.original, made.edited, {**made.meta, "threads": "1"}, made.documents)


def document_of(out: Path, number: int) -> Mapping[str, object]:
    return json.loads((out / "scenes" / f"drawn_{number:06d}_comparison.json").read_text())


def test_summary_counts_rejects_and_changes(six: Path) -> None:
    summary = json.loads((six / "summary.json").read_text())
    rejects = sum(json.loads(path.read_text())["rejects"].get("three objects", 0) for path in six.glob("records/*"))
    assert summary["pairs"] == 6
    assert summary["given_up"] == []
    assert rejects > 0
    assert summary["rejects"] == {"three objects": rejects}
    assert summary["attempts"] == 6 + rejects
    assert summary["material"] == {"objects": "4 to 6"}
    shares = sorted(changed_share(*open_pair(pair)) for pair in load_pairs(six))
    assert summary["changed_pixels"]["0%"] == pytest.approx(shares[0], abs=1e-4)
    assert summary["changed_pixels"]["100%"] == pytest.approx(shares[-1], abs=1e-4)
    assert 0 < shares[0] < shares[-1] < 0.5


def test_two_workers_give_the_same_bytes(six: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "two", workers=2) == 0
    assert contents(tmp_path / "two") == contents(six)


def test_more_pairs_begin_with_the_same(six: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grown"
    assert make(out, n=2) == 0
    assert make(out, n=6, workers=2) == 0
    assert "2 of 6 pairs are there already" in capsys.readouterr().out
    assert contents(out) == contents(six)
    assert make(out, n=7) == 0
    assert pairs_of(out).items() > pairs_of(six).items()
    assert len(load_pairs(out)) == 7


def test_another_seed_gives_other_pairs(six: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "other", "--seed", "1", n=2) == 0
    assert not set(pairs_of(tmp_path / "other").values()) & set(pairs_of(six).values())


def test_a_killed_run_continues_to_the_same_bytes(six: Path, tmp_path: Path) -> None:
    """SIGKILL to the program alone: its workers must end by themselves. Then everything at once, twice."""
    out = tmp_path / "killed"
    with program(out, "--seconds", "0.3") as process:
        wait_for(lambda: n_records(out) >= 1, process)
        workers = children(process.pid)
        assert len(workers) >= 2
        process.kill()
        wait_until_gone(workers)
    with program(out, "--seconds", "0.3") as process:
        before = n_records(out)
        wait_for(lambda: n_records(out) > before, process)
        kill(process)
    assert n_records(out) < 6
    assert not (out / "manifest.jsonl").exists()
    (out / "images" / ".drawn_000005_original.png.1.part").write_text("half")
    assert make(out, "--seconds", "0.3", workers=2) == 0
    after, undisturbed = contents(out), contents(six)
    for name in ("options.json",):  # --seconds differs
        assert after.pop(name) != undisturbed.pop(name)
    assert after == undisturbed


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(workers: list[int]) -> None:
    end = time.monotonic() + TIMEOUT
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end, "workers outlive their parent"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with program(out, "--seconds", "0.2", "--closed", str(tmp_path), n=50) as process:
        wait_for(lambda: n_records(out) >= 2, process)
        workers = children(process.pid)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to the whole group
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 130
        assert errors == f"stopped; what is done is kept in {out}, the same command continues\n"
        wait_until_gone(workers)  # one is multiprocessing's own, which ends when it sees that its parent has
    assert len(list(tmp_path.glob("closed-*"))) == 2  # what a maker opened is closed
    assert not list(out.rglob(".*.part"))


def test_a_worker_that_dies_is_an_error_and_no_hang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert make(out, "--trouble", "kill", "--at", "2", workers=2) == 1
    error = capsys.readouterr().err
    assert "was killed by SIGKILL" in error
    assert "try fewer --workers" in error
    assert "drawn_000002 of seed 0" in error
    assert make(tmp_path / "other", "--trouble", "exit", "--at", "0") == 1
    assert "ended with status 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("fail", "EOFError: a mistake of the maker"),
        ("nan", "the meta of pair drawn_000001 cannot be written as JSON"),
        ("document", "named a document '../outside'"),
        ("grey", "both images must be RGB and of one size"),
        ("closed door", "error: no renderer here; install one\n"),
    ],
)
def test_mistakes_of_a_maker(trouble: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(tmp_path / "out", "--trouble", trouble, "--at", "1", n=2) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_pairs_that_are_given_up_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert make(out, "--trouble", "reject", "--at", "1", n=3) == 0
    assert "1 of 3 pairs were given up after 8 attempts each, drawn_000001 the first" in capsys.readouterr().err
    assert [pair.id for pair in load_pairs(out)] == ["drawn_000000", "drawn_000002"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["pairs"], summary["given_up"]) == (2, ["drawn_000001"])
    assert summary["rejects"]["three objects"] >= 8

    assert make(tmp_path / "none", "--trouble", "reject", "--at", "0", n=1) == 1
    assert "not one of 1 pairs could be made" in capsys.readouterr().err


def test_a_full_disk_says_so_and_can_be_continued(six: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    with program(out, preexec_fn=small_files) as process:
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert "cannot be written: File too large; make room and run the same command again" in errors
    assert "Traceback" not in errors
    assert make(out, workers=2) == 0
    assert contents(out) == contents(six)


def test_cut_and_missing_files_are_made_again(six: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert make(out) == 0
    (out / "images" / "drawn_000001_original.png").write_bytes(b"")
    (out / "scenes" / "drawn_000003_comparison.json").unlink()
    (out / "records" / "drawn_000004.json").write_text('{"id": "dra')
    capsys.readouterr()
    assert make(out) == 0
    assert "3 pairs had missing or cut files and are made again" in capsys.readouterr().out
    assert contents(out) == contents(six)


@pytest.mark.parametrize(
    ("options", "n", "message"),
    [
        (["--seed", "4"], 6, "--seed was 0, is 4"),
        (["--size", "64x64"], 6, "--size was None, is [64, 64]"),
        (["--closed", "somewhere"], 6, "--closed was None, is '"),
        ([], 5, "was begun with --n 6, now it is 5"),
    ],
)
def test_other_options_are_refused(
    options: list[str], n: int, message: str, six: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(six)
    assert make(six, *options, n=n) == 1
    assert message in capsys.readouterr().err
    assert contents(six) == before


def test_folders_of_other_things_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert make(tmp_path) == 1
    assert "holds notes.txt and was not begun by this program" in capsys.readouterr().err
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    assert make(tmp_path / "notes.txt") == 1
    assert "is a file" in capsys.readouterr().err

    out = tmp_path / "out"
    assert make(out, n=1) == 0
    for foreign in ("notes.txt", "images/cat.jpg", "images/other_000000_original.png", "photos/x.png"):
        (out / foreign).parent.mkdir(exist_ok=True)
        (out / foreign).write_text("foreign")
        assert make(out, n=1) == 1
        assert f"holds {foreign}" in capsys.readouterr().err
        (out / foreign).unlink()


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with program(out, "--seconds", "0.5", n=50) as process:
        wait_for(lambda: n_records(out) >= 1, process)
        assert make(out, "--seconds", "0.5", n=50) == 1
        assert "another run is making pairs in it" in capsys.readouterr().err


def test_without_n_the_makers_own_number(tmp_path: Path) -> None:
    assert make_data.main(["drawn", "--out", str(tmp_path / "out"), "--workers", "1"], DRAWN) == 0
    assert len(load_pairs(tmp_path / "out")) == 3


def test_options_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "--size": (["64", "x64", "64x", "8x8", "-64x64", "64x64x3"], "must be WIDTHxHEIGHT"),
        "--n": (["0"], "must be at least 1"),
        "--workers": (["0"], "must be at least 1"),
    }
    for option, (values, message) in cases.items():
        for value in values:
            with pytest.raises(SystemExit):
                make(tmp_path / "out", f"{option}={value}")
            assert message in capsys.readouterr().err
    for arguments in ([], ["paintings", "--out", "x"], ["--out", "x", "drawn"]):
        with pytest.raises(SystemExit) as ended:
            make_data.main(arguments, DRAWN)
        assert ended.value.code == 2
    assert "invalid choice: 'paintings'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        make_data.main(["--help"], DRAWN)
    assert ended.value.code == 0
    assert "fetch a ready-made set" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_generators_of_attempts_differ() -> None:
    arguments = [("a", 0, 1, 1), ("b", 0, 1, 1), ("a", 1, 1, 1), ("a", 0, 11, 1), ("a", 0, 1, 0), ("a", 0, 1, 11)]
    assert len({attempt_rng(*one).random() for one in arguments}) == len(arguments)


def test_changed_share_by_hand() -> None:
    before = np.zeros((2, 5, 3), np.uint8)
    after = before.copy()
    after[0, 0] = (26, 0, 0)
    after[0, 1] = (25, 25, 25)  # not by more than 25 in any channel
    after[1, 4] = (0, 255, 255)
    assert changed_share(Image.fromarray(before), Image.fromarray(after)) == 0.2
    assert changed_share(Image.fromarray(after), Image.fromarray(before)) == 0.2


def test_summary_by_hand() -> None:
    records = [
        {"id": "a", "given_up": False, "rejects": {"dark": 2}, "changed": 0.1},
        {"id": "b", "given_up": True, "rejects": {"dark": 1, "small": 3}},
        {"id": "c", "given_up": False, "rejects": {}, "changed": 0.3},
    ]
    summary = make_summary(records, {})
    assert (summary["pairs"], summary["given_up"], summary["attempts"]) == (2, ["b"], 8)
    assert list(summary["rejects"].items()) == [("dark", 3), ("small", 3)]
    assert summary["changed_pixels"]["50%"] == 0.2


# ------------------------------------------------------------------------------------------------ files of the user's


def photographs(folder: Path, names: str) -> Path:
    folder.mkdir()
    for name in names.split():
        shutil.copy(Path(__file__).resolve().parents[2] / "data" / "photos" / f"{name}.jpg", folder)
    return folder


def make_photos(folder: Path, out: Path, *options: str) -> int:
    return make_data.main(
        ["photos", "--photos", str(folder), "--out", str(out), "--workers", "1", "--size", "96x96", *options]
    )


def test_other_photographs_are_refused_once_a_pair_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else pair k of a folder would show another photograph than pair k of the same folder made at once."""
    folder, out = photographs(tmp_path / "photos", "cat chicken hedgehog"), tmp_path / "out"
    assert make_photos(folder, out, "--n", "1", "--edits", "recolour_object") == 0
    (folder / "cat.jpg").unlink()
    assert make_photos(folder, out, "--n", "2", "--edits", "recolour_object") == 1
    assert f"{out}: was begun with other files" in capsys.readouterr().err


def test_a_broken_photograph_is_named_and_a_repaired_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photographs(tmp_path / "photos", "cat chicken"), tmp_path / "out"
    whole = (folder / "cat.jpg").read_bytes()
    (folder / "cat.jpg").write_bytes(whole[:2000])
    assert make_photos(folder, out, "--edits", "recolour_object") == 1
    error = capsys.readouterr().err
    assert str(folder / "cat.jpg") in error
    assert "Traceback" not in error
    (folder / "cat.jpg").write_bytes(whole)
    assert make_photos(folder, out, "--edits", "recolour_object") == 0


def test_sources_that_are_no_use_begin_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = tmp_path / "out", tmp_path / "table.csv"
    table.write_text("name\nonly names\n")
    for sources in (str(table), str(tmp_path / "nowhere.csv")):
        assert make_data.main(["charts", "--tables", sources, "--out", str(out), "--n", "1", "--workers", "1"]) == 1
        assert sources in capsys.readouterr().err
        assert not out.exists()


def test_files_that_are_left_out_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "good.csv").write_text(
        "Year,Rain,Snow\n" + "".join(f"{2000 + k},{k * k + 1},{30 - k}\n" for k in range(9))
    )
    (folder / "bad.csv").write_text("name\nonly names\n")
    options = ["--out", str(tmp_path / "out"), "--n", "1", "--workers", "1"]
    assert make_data.main(["charts", "--tables", str(folder), *options]) == 0
    assert "left out       1  files:" in capsys.readouterr().out


def test_options_damaged_by_hand_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert make(out, n=1) == 0
    options = json.loads((out / "options.json").read_text())
    (out / "options.json").write_text(json.dumps({**options, "n": "3"}))
    assert make(out, n=1) == 1
    assert "has no whole number n" in capsys.readouterr().err


def test_scenes_of_any_size_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(tmp_path / "out"), "--n", "1", "--workers", "1", "--size", "1000000x1000000"]
    assert make_data.main(["clevr", *options]) == 1
    assert "at most 4096 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script",
    [
        "from vision_zero.make_data.__main__ import main\nmain({words})\n",
        "print('once', flush=True)\nfrom vision_zero.make_data.__main__ import main\nraise SystemExit(main({words}))\n",
        "import sys\nassert sys.argv[1:] == ['x']\nfrom vision_zero.make_data.__main__ import main\nmain({words})\n",
    ],
)
def test_a_script_without_a_guard_is_not_executed_again_by_workers(script: str, tmp_path: Path) -> None:
    words = [
        "clevr",
        "--out",
        str(tmp_path / "out"),
        "--n",
        "2",
        "--workers",
        "2",
        "--size",
        "32x24",
        "--min_pixels",
        "1",
    ]
    (tmp_path / "script.py").write_text(script.format(words=words))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), "x"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("once") == script.count("once")
    assert len(load_pairs(tmp_path / "out")) == 2
