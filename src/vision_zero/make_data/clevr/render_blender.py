"""Renderer in Blender: a process in its own environment (`bash setup.sh --blender`) that reads JSON lines.

Blender's module is large, under another licence (GPL-3) and bound to one version of Python; hence the process, which
draws any number of scenes. Cycles uses a GPU if there is one.
"""

import json
import math
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from vision_zero.make_data.clevr import lighting
from vision_zero.make_data.clevr.ray_tracing import BEVELS
from vision_zero.make_data.clevr.scenes import COLOURS, FOCAL, Scene
from vision_zero.make_data.maker import MakerError

REPOSITORY = Path(__file__).resolve().parents[4]
WORKER = REPOSITORY / "run_scripts" / "blender_worker.py"
BLENDER_PYTHON = REPOSITORY / ".venv-blender" / "bin" / "python"
"""Interpreter that `bash setup.sh --blender` installs beside the sources."""

SENSOR = 32.0  # width in mm
STDERR_LINES = 20


@dataclass(frozen=True)
class BlenderOptions:
    """Options of Blender. `samples`: rays per pixel before denoising; `threads`: 0 for all cores."""

    python: Path = BLENDER_PYTHON
    samples: int = 16
    threads: int = 0
    start_seconds: float = 300.0  # limit of the start: the first one reads 350 MB, and compiles for a GPU
    image_seconds: float = 300.0  # limit of one image

    def __post_init__(self) -> None:
        if self.samples < 1 or self.threads < 0:
            raise ValueError(f"samples must be 1 or more and threads 0 or more, got {self.samples} and {self.threads}")


class Blender:
    """A running Blender that waits for scenes, with its version and its device."""

    def __init__(
        self, process: subprocess.Popen[bytes], errors: BinaryIO, folder: Path, options: BlenderOptions
    ) -> None:
        self._process, self._errors, self._folder, self._options = process, errors, folder, options
        self._unread = b""
        ready = self._answer(options.start_seconds, "start")
        self.version, self.device = str(ready["version"]), str(ready["device"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def render(self, scene: Scene, size: tuple[int, int]) -> Image.Image:
        """The RGB image of `size` (width, height). Raises MakerError."""
        path = self._folder / "image.png"
        request = {"scene": blender_scene(scene), "width": size[0], "height": size[1]}
        request |= {"samples": self._options.samples, "path": str(path)}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failure("ended before it was asked for an image") from None
        self._answer(self._options.image_seconds, "draw an image")
        with Image.open(path) as image:
            drawn = image.convert("RGB")
        path.unlink()
        return drawn

    def _answer(self, seconds: float, what: str) -> Mapping[str, Any]:
        """The next line of its output. Raises MakerError if there is none in time."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            readable, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                raise self._failure(f"took more than {seconds:g} s to {what}")
            data = os.read(pipe, 65536)
            if not data:
                status = self._process.wait()
                raise self._failure(f"ended with status {status} instead of answering (it was to {what})")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _failure(self, what: str) -> MakerError:
        """The error with the end of its output."""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").splitlines()[-STDERR_LINES:]
        end = "\n".join(said) if said else "(nothing)"
        return MakerError(f"Blender ({self._options.python}) {what}. The end of what it said:\n{end}")


@contextmanager
def open_blender(options: BlenderOptions) -> Iterator[Blender]:
    """A running Blender, ended afterwards. Raises MakerError if it does not start."""
    if not options.python.is_file():
        raise MakerError(
            f"{options.python}: there is no Python with Blender; `bash setup.sh --blender` makes one, "
            "--blender_python names another, --renderer numpy needs none"
        )
    with (
        tempfile.TemporaryDirectory(prefix="vision-zero-blender-") as folder,
        open(Path(folder) / "stderr", "w+b") as errors,
    ):
        # -I: the caller's PYTHONPATH is for another Python.
        command = [str(options.python), "-I", str(WORKER), str(options.threads)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=folder)
        try:
            yield Blender(process, errors, Path(folder), options)
        finally:
            with suppress(OSError), process:  # which is waited for and its pipes closed, one with a request unread
                process.kill()


def blender_scene(scene: Scene) -> dict[str, Any]:
    """JSON of a scene for the process in `blender_worker`."""
    return {
        "camera": {"position": scene.camera.position, "lens": FOCAL * SENSOR, "sensor": SENSOR},
        "sky": lighting.SKY,
        "ground": {"material": "ground", "rgb": [lighting.GROUND_ALBEDO] * 3},
        "lights": [_blender_light(light) for light in lighting.lights_of(scene.lamps)],
        "objects": [
            {
                "shape": one.shape,
                "position": one.centre,
                "radius": one.radius,
                "rotation": one.rotation,
                "bevel": BEVELS.get(one.shape, 0.0),
                "material": one.material,
                "rgb": [channel / 255 for channel in COLOURS[one.colour]],
            }
            for one in scene.objects
        ],
    }


def _blender_light(light: lighting.Light) -> dict[str, Any]:
    common = {"color": light.colour, "direction": light.direction}
    if light.position is None:
        angle = 2 * math.atan(light.spread)
        return {**common, "type": "SUN", "energy": light.strength, "angle": angle}
    # A lamp of P watts has P / pi of irradiance at distance 1 in front of it.
    watts = light.strength * math.pi
    return {**common, "type": "AREA", "energy": watts, "size": lighting.LAMP_WIDTH, "position": light.position}
