"""The scripts that make and fetch images: their variables reach the commands, and the commands the real parsers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fork_server import folder_of_shared_python
from vision_zero.make_data import __main__ as make_data
from vision_zero.make_data.download import main

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "run_scripts"
NAMES = ["make_clevr.sh", "make_charts.sh", "make_photos.sh", "download_data.sh"]


def variables(name: str) -> list[str]:
    return re.findall(r'^([A-Z_]+)="\$\{\1:-', (SCRIPTS / name).read_text(), re.MULTILINE)


def bash(name: str, *arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    """Run a script from another folder, with none of its variables in the environment but those given."""
    kept = {key: value for key, value in os.environ.items() if key not in variables(name)}
    environment = {
        **kept,
        "PATH": f"{folder_of_shared_python()}:{Path(sys.executable).parent}:{kept['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": f"{ROOT / 'src'}",
        **values,
    }
    script = ["bash", str(SCRIPTS / name), *arguments]
    return subprocess.run(script, cwd="/", env=environment, capture_output=True, text=True, check=False)


def command(name: str, *arguments: str, **values: str) -> list[str]:
    finished = bash(name, *arguments, **{**values, "DRY_RUN": "1"})
    assert finished.returncode == 0, finished.stderr
    return shlex.split(finished.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_clean(name: str) -> None:
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)
    subprocess.run([str(Path(sys.executable).parent / "shellcheck"), "-x", str(SCRIPTS / name)], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_changes_the_command(name: str) -> None:
    usual = command(name)
    there = {"PHOTOS": str(ROOT / "data" / "drawn"), "SOURCE": str(ROOT / "data")}
    values = {"SET": "chartqa", "COLUMNS_OF": "a b", **there}
    silent = [one for one in variables(name) if command(name, **{one: values.get(one, "7")}) == usual]
    assert silent == ["DRY_RUN"]


@pytest.mark.parametrize("domain", ["clevr", "charts", "photos"])
def test_the_commands_are_parsed(domain: str, tmp_path: Path) -> None:
    name = f"make_{domain}.sh"
    usual = command(name, "--seed", "3", OUT=str(tmp_path / "out"), WORKERS="2")
    assert usual[:4] == ["python", "-m", "vision_zero.make_data", domain]
    args, _ = make_data.parse(usual[3:], make_data.MAKERS)
    assert (args.out, args.seed, args.workers) == (tmp_path / "out", 3, 2)  # an argument wins over a variable
    changed, _ = make_data.parse(command(name, "--size", "640x480", N="5")[3:], make_data.MAKERS)
    assert (changed.size, changed.n) == ((640, 480), 5)
    # What the script says of itself is what the program does without it.
    required = ["--photos", str(ROOT / "data" / "photos")] if domain == "photos" else []
    bare, _ = make_data.parse([domain, "--out", "x", *required], make_data.MAKERS)
    same = ("out", "workers", "n", "size", "seed")
    assert {k: v for k, v in vars(args).items() if k not in same} == {
        k: v for k, v in vars(bare).items() if k not in same
    }


def test_fetching_is_parsed() -> None:
    line = command("download_data.sh", SET="somebody/edits", LIMIT="5", COLUMNS_OF="before after", SPLIT="dev")
    args = main.parse(line[4:])
    assert (args.set, args.limit, args.columns, args.split) == ("somebody/edits", 5, ["before", "after"], "dev")
    assert args.out == ROOT / "runs" / "edits"


def test_fetching_for_real_from_a_local_folder(tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "train"
    for folder, name in (("png", "a.png"), ("tables", "a.csv")):
        (copy / folder).mkdir(parents=True)
        source = next((ROOT / "data" / "drawn").glob("*_original.png"))
        (copy / folder / name).write_bytes(source.read_bytes() if folder == "png" else b"x,y\n1,2\n")
    finished = bash("download_data.sh", SET="chartqa", SOURCE=str(tmp_path / "copy"), OUT=str(tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f"1 pairs in {tmp_path / 'out'}\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["png", "tables"]
