"""Seconds per CLEVR scene, and the memory of the rendering process over many scenes.

python benchmarks/render.py [--renderer numpy|blender] [--scenes 20]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from vision_zero.make_data.clevr import render_numpy
from vision_zero.make_data.clevr.ray_tracing import object_mask
from vision_zero.make_data.clevr.render_blender import BLENDER_PYTHON, BlenderOptions, open_blender
from vision_zero.make_data.clevr.scenes import Scene, SceneRules, sample_scene
from vision_zero.make_data.maker import Rejected

Render = Callable[[Scene, tuple[int, int]], Image.Image]
MIB = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--renderer", choices=("numpy", "blender"), default="numpy")
    parser.add_argument("--scenes", type=int, default=20, help="different scenes")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--samples", type=int, default=BlenderOptions().samples, help="Blender's rays per pixel")
    parser.add_argument("--threads", type=int, default=0, help="Blender's; 0 for all cores")
    parser.add_argument("--blender_python", type=Path, default=BLENDER_PYTHON)
    options = parser.parse_args()
    size = (options.width, options.height)
    scenes = [scene_of(number) for number in range(options.scenes)]
    with renderer(options) as (render, pid, device):
        seconds, resident = [], []
        render(scenes[0], size)  # the first loads what is loaded once
        cpu = cpu_seconds(pid)
        for scene in scenes:
            start = time.perf_counter()
            render(scene, size)
            seconds.append(time.perf_counter() - start)
            resident.append(resident_mib(pid))
        cpu = cpu_seconds(pid) - cpu
    start = time.perf_counter()
    for scene in scenes:
        object_mask(scene, size)
    row = {
        "renderer": options.renderer,
        "device": device,
        "size": f"{size[0]}x{size[1]}",
        "scenes": len(scenes),
        "seconds per image, median": round(statistics.median(seconds), 4),
        "seconds per image, most": round(max(seconds), 4),
        "CPU seconds per image": round(cpu / len(scenes), 4),
        "MiB after the first scene": resident[0],
        "MiB after the last": resident[-1],
        "MiB at most": max(resident),
        "seconds per mask": round((time.perf_counter() - start) / len(scenes), 5),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
    }
    for name, value in row.items():
        print(f"  {name:<27} {value}")
    print(json.dumps(row))


def scene_of(number: int) -> Scene:
    attempt = 0
    while True:
        try:
            return sample_scene(random.Random(f"benchmark/{number}/{attempt}"), SceneRules())
        except Rejected:
            attempt += 1


@contextmanager
def renderer(options: argparse.Namespace) -> Iterator[tuple[Render, int, str]]:
    """The function, the process whose memory counts, and what draws."""
    if options.renderer == "numpy":
        yield render_numpy.render, os.getpid(), "CPU"
        return
    settings = BlenderOptions(options.blender_python, samples=options.samples, threads=options.threads)
    with open_blender(settings) as blender:
        yield blender.render, blender.pid, blender.device


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, of all its threads (Linux)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> int:
    """Memory of a process now (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / MIB)
    raise ValueError(f"process {pid} has no memory")


if __name__ == "__main__":
    main()
