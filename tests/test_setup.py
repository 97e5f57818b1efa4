"""setup.sh and the two beside it in environments that are made up: what they refuse, and dry runs that do nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("setup.sh", "run_scripts", "requirements", "requirements.txt", "pyproject.toml")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What setup.sh reads of a clone."""
    folder = tmp_path_factory.mktemp("of") / "clone"
    folder.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, folder / name)
    return folder


def environment_of(folder: Path, installed: Path | None, version: str = "") -> Path:
    """An environment whose Python sees one editable installation of vision_zero, of the clone `installed`.

    With a `version` its Python says that it is of that version. Whatever it is asked to install fails.
    """
    packages = folder / "packages"
    info = packages / "vision_zero-1.dist-info"
    info.mkdir(parents=True)
    if installed is not None:
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vision-zero\nVersion: 1\n")
        url = {"url": installed.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(url))
    else:
        info.rmdir()
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    first = f"import sys; sys.version_info = ({version}, 'final', 0); " if version else ""
    python.write_text(
        f"""#!/bin/sh
case "$1 $2" in "-m pip"|"-m venv") echo "installed $*" >>{folder}/log; exit 1 ;; esac
[ "$1" != -V ] || {{ echo "Python {version.replace(", ", ".") or "3.11"}"; exit; }}
[ "$1" != -c ] || exec {sys.executable} -S -c "{first}$2"
PYTHONPATH={packages} exec {sys.executable} -S "$@"
"""
    )
    python.chmod(0o755)
    return folder


def setup(clone: Path, environment: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CONDA_PREFIX", "DRY_RUN")}
    own = {**kept, "VIRTUAL_ENV": str(environment), **variables}
    program = ["bash", str(clone / "setup.sh"), "--cpu", *arguments]
    return subprocess.run(program, cwd="/", env=own, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("dry", ["0", "1"])
def test_another_clones_environment_is_left_alone(clone: Path, tmp_path: Path, dry: str) -> None:
    other = tmp_path / "the other"
    other.mkdir()
    environment = environment_of(tmp_path / "env", other)
    (environment / ".vision_zero_setup").write_text("cpu of-the-other\n")
    refused = setup(clone, environment, DRY_RUN=dry)
    assert refused.returncode == 1
    assert f"{environment} has vision_zero of another clone, {other}," in refused.stderr
    assert "take that one over with --force" in refused.stderr
    assert not (environment / "log").exists()
    assert (environment / ".vision_zero_setup").read_text() == "cpu of-the-other\n"


@pytest.mark.parametrize("whose", ["nobody's", "its own", "its own by a link", "one that is gone"])
def test_an_environment_of_no_other_clone_is_used(clone: Path, tmp_path: Path, whose: str) -> None:
    (tmp_path / "link").symlink_to(clone)
    owners = {"nobody's": None, "its own": clone, "its own by a link": tmp_path / "link"}
    environment = environment_of(tmp_path / "env", owners.get(whose, tmp_path / "gone"))
    dry = setup(clone, environment, DRY_RUN="1")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert f"would install the cpu stack into {environment}" in dry.stdout
    assert not (environment / "log").exists()
    assert setup(clone, environment).returncode == 1  # pip, which fails here
    assert "install" in (environment / "log").read_text()


def test_force_takes_an_environment_over(clone: Path, tmp_path: Path) -> None:
    environment = environment_of(tmp_path / "env", tmp_path)
    assert setup(clone, environment, "--force").returncode == 1
    assert "install" in (environment / "log").read_text()


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("3, 9, 2", False),
        ("3, 10, 14", False),
        ("3, 11, 7", True),
        ("3, 12, 1", True),
        ("3, 13, 0", True),
        ("3, 14, 0", False),
    ],
)
def test_versions_of_python(clone: Path, tmp_path: Path, version: str, taken: bool) -> None:
    environment = environment_of(tmp_path / "env", None, version)
    finished = setup(clone, environment, DRY_RUN="1")
    assert finished.returncode == (0 if taken else 1)
    if not taken:
        assert (
            f"has Python {version.replace(', ', '.')}. Python 3.11, 3.12 or 3.13 is needed (TRL needs 3.11 or later)"
            in (finished.stderr)
        )
        assert "conda create -n vision-zero python=3.11" in finished.stderr
    assert not (environment / "log").exists()


def test_no_python_that_would_do(clone: Path, tmp_path: Path) -> None:
    """With no environment active, and one Python on the PATH, which is too old."""
    for tool in ("bash", "sed", "awk", "tr", "grep", "dirname", "basename", "cat", "env"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    old = environment_of(tmp_path / "old", None, "3, 10, 14")
    (tmp_path / "python3").symlink_to(old / "bin" / "python")
    found = setup(clone, Path(), VIRTUAL_ENV="", PATH=str(tmp_path))
    assert found.returncode == 1
    assert "none on the PATH. Python 3.11, 3.12 or 3.13 is needed (TRL needs 3.11 or later)" in found.stderr
    assert "conda create -n vision-zero python=3.11" in found.stderr
    assert not (clone / ".venv").exists()


def test_without_an_environment_a_dry_run_makes_none(clone: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    dry = setup(clone, Path(), VIRTUAL_ENV="", PATH=path, DRY_RUN="1")
    assert dry.returncode == 0, dry.stderr
    assert f"making .venv with {Path(sys.executable).parent}" in dry.stdout
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    ("script", "made"),
    [("setup_vlmevalkit.sh", ".venv-vlmevalkit"), ("setup_vlmevalkit.sh --with lmms-eval", ".venv-lmms-eval"),
     ("setup_blender.sh", ".venv-blender")],
)  # fmt: skip
def test_dry_runs_of_the_other_environments_make_none(clone: Path, script: str, made: str) -> None:
    name, *arguments = script.split()
    kept = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DRY_RUN": "1"}
    program = ["bash", str(clone / "run_scripts" / name), *arguments]
    dry = subprocess.run(program, cwd="/", env=kept, capture_output=True, text=True, check=False)
    if "needs a Python 3.11" in dry.stderr:
        pytest.skip("Blender's module is for Python 3.11")
    assert dry.returncode == 0, dry.stderr
    assert made in dry.stdout
    assert sorted(path.name for path in clone.iterdir()) == sorted(COPIED)


def test_a_dry_run_of_the_tests_runs_none(clone: Path) -> None:
    own = {**os.environ, "DRY_RUN": "1", "PATH": "/usr/bin:/bin"}
    program = ["bash", str(clone / "run_scripts" / "test.sh"), "-k", "stages"]
    dry = subprocess.run(program, cwd="/", env=own, capture_output=True, text=True, check=False)
    assert (dry.returncode, dry.stdout.count("\n")) == (0, 1)
    assert "-k stages" in dry.stdout
