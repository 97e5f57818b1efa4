"""Blender: the same places as NumPy's renderer, one process for many scenes, and a clear end when it fails."""

import os
import random
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vision_zero.make_data.clevr.render_blender import BLENDER_PYTHON, BlenderOptions, open_blender
from vision_zero.make_data.clevr.render_numpy import render
from vision_zero.make_data.clevr.scenes import Scene, SceneRules, sample_scene
from vision_zero.make_data.maker import MakerError, Rejected

ROOT = Path(__file__).resolve().parents[3]
SIZE = (320, 240)
HUES = {"red": 0, "yellow": 55, "green": 114, "cyan": 180, "blue": 228, "purple": 275}

needs_blender = pytest.mark.skipif(
    not BLENDER_PYTHON.is_file(), reason="Blender is not installed: bash setup.sh --blender"
)


def colourful_scene(seed: int) -> Scene:
    """A scene whose objects can be told apart by hue: rubber, each of another colour."""
    for attempt in range(1000):
        try:
            scene = sample_scene(random.Random(f"{seed}/{attempt}"), SceneRules())
        except Rejected:
            continue
        colours = random.Random(seed).sample(sorted(HUES), len(scene.objects))
        objects = (replace(one, colour=c, material="rubber") for one, c in zip(scene.objects, colours, strict=True))
        return replace(scene, objects=tuple(objects))
    raise AssertionError("no scene in 1000 attempts")


def places(image: np.ndarray, scene: Scene) -> np.ndarray:
    """(objects, 6): of the pixels of each object's hue, the mean column and row, and left, top, right, bottom."""
    rgb = image.astype(float) / 255
    top, bottom = rgb.max(axis=2), rgb.min(axis=2)
    spread = np.maximum(top - bottom, 1e-6)
    r, g, b = (rgb[..., channel] for channel in range(3))
    hue = np.select([top == r, top == g], [((g - b) / spread) % 6, (b - r) / spread + 2], (r - g) / spread + 4)
    coloured = spread / np.maximum(top, 1e-6) > 0.35
    found = []
    for one in scene.objects:
        apart = np.abs((hue * 60 - HUES[one.colour] + 180) % 360 - 180)
        rows, columns = np.nonzero(coloured & (apart < 25))
        # The outermost 1% are left out: a reddish pixel on the ground is not where an object ends.
        ends = [np.percentile(values, share) for share in (1, 99) for values in (columns, rows)]
        found.append([columns.mean(), rows.mean(), *ends])
    return np.array(found)


def most_apart(scene: Scene, drawn: np.ndarray) -> float:
    """Pixels between where an object is in `drawn` and where NumPy's renderer has it, at most."""
    return float(np.abs(places(drawn, scene) - places(np.asarray(render(scene, SIZE)), scene)).max())


@needs_blender
def test_objects_stand_on_the_same_pixels_in_both_renderers() -> None:
    with open_blender(BlenderOptions(samples=4, threads=1)) as blender:
        for seed in range(3):
            scene = colourful_scene(seed)
            assert most_apart(scene, np.asarray(blender.render(scene, SIZE))) <= 3


@needs_blender
def test_a_scene_is_drawn_alike_whatever_was_drawn_before() -> None:
    """Objects are removed, camera and lamps moved back."""
    first, second = colourful_scene(0), colourful_scene(1)
    with open_blender(BlenderOptions(samples=4, threads=1)) as blender:
        images = [np.asarray(blender.render(scene, (160, 120))).astype(int) for scene in (first, second, first)]
        assert np.abs(images[0] - images[2]).max() <= 2
        assert np.abs(images[0] - images[1]).max() > 50
        pid = blender.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@needs_blender
def test_what_blender_cannot_draw_ends_with_its_traceback() -> None:
    scene = colourful_scene(0)
    broken = replace(scene, objects=(replace(scene.objects[0], shape="teapot"),))
    with (
        open_blender(BlenderOptions(samples=1, threads=1)) as blender,
        pytest.raises(MakerError, match=r"(?s)ended with status 1 .*KeyError: 'teapot'"),
    ):
        blender.render(broken, SIZE)


@needs_blender
def test_an_image_that_takes_too_long_is_given_up() -> None:
    options = BlenderOptions(samples=4096, threads=1, image_seconds=0.2)
    with (
        open_blender(options) as blender,
        pytest.raises(MakerError, match=r"took more than 0\.2 s to draw an image"),
    ):
        blender.render(colourful_scene(0), SIZE)


def a_program(folder: Path, *lines: str) -> Path:
    """An executable shell script, in the place of Blender's Python."""
    program = folder / "python"
    program.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_a_blender_that_dies_at_its_start_says_why(tmp_path: Path) -> None:
    python = a_program(tmp_path, "echo 'libX11.so.6: cannot open shared object file' >&2", "exit 3")
    with (
        pytest.raises(MakerError, match=r"(?s)status 3 .*libX11\.so\.6: cannot open"),
        open_blender(BlenderOptions(python)),
    ):
        pass


def test_a_blender_that_hangs_at_its_start_is_given_up(tmp_path: Path) -> None:
    python = a_program(tmp_path, "echo starting >&2", "exec sleep 60")
    with (
        pytest.raises(MakerError, match=r"(?s)took more than 0\.5 s to start.*starting"),
        open_blender(BlenderOptions(python, start_seconds=0.5)),
    ):
        pass


def test_a_blender_that_is_gone_when_it_is_asked(tmp_path: Path) -> None:
    python = a_program(tmp_path, """echo '{"ready": true, "version": "0", "device": "CPU"}'""", "exit 9")
    with open_blender(BlenderOptions(python)) as blender, pytest.raises(MakerError, match="ended"):
        blender.render(colourful_scene(0), SIZE)


def test_without_blender_it_says_how_to_get_it(tmp_path: Path) -> None:
    with (
        pytest.raises(MakerError, match=r"setup\.sh --blender"),
        open_blender(BlenderOptions(tmp_path / "nowhere")),
    ):
        pass


def test_its_setup_says_how_it_is_used_and_refuses_what_it_does_not_know() -> None:
    script = str(ROOT / "run_scripts" / "setup_blender.sh")
    shown = subprocess.run(["bash", script, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert ".venv-blender" in shown.stdout
    refused = subprocess.run(["bash", script, "--forced"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "--forced" in refused.stderr


@pytest.mark.parametrize("options", [{"samples": 0}, {"threads": -1}])
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="samples must be"):
        BlenderOptions(**options)
