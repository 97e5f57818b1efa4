"""Wheels from a folder, for packages that a machine without a network lacks. Standard library only.

Nothing is installed into the system: wheels go to a folder of their own, which comes first in PYTHONPATH.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEEDED = (
    *("torch", "torchvision", "transformers", "trl", "accelerate", "peft", "datasets", "numpy", "pillow", "tqdm"),
    *("safetensors", "pyyaml", "jinja2", "psutil", "pandas", "pyarrow", "dill", "multiprocess", "xxhash", "fsspec"),
)
"""Distributions that the trainer imports, directly or through TRL and datasets."""


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def release(text: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: 2.11.0+cu130 is (2, 11, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))


def useful(wheels: list[Path]) -> list[Path]:
    """Wheels whose package is absent here, or installed in an older version."""
    chosen = []
    for wheel in wheels:
        name, new = wheel.name.split("-")[:2]
        found = installed(name.replace("_", "-"))
        if found is None or release(found) < release(new):
            chosen.append(wheel)
    return chosen


def unpack(folder: Path, target: Path) -> list[str]:
    """Put what is useful of `folder` into `target`; returns the names of the wheels. Raises CalledProcessError."""
    wheels = useful(sorted(folder.glob("*.whl")))
    if wheels:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
        command += ["--find-links", str(folder), "--no-deps", "--no-compile", "--target", str(target)]
        subprocess.run([*command, *map(str, wheels)], check=True)
    return [wheel.name for wheel in wheels]


def missing(unpacked: list[str]) -> list[str]:
    """Needed packages that are neither installed nor unpacked."""
    there = {name.split("-")[0].replace("_", "-").lower() for name in unpacked}
    return [name for name in NEEDED if name not in there and installed(name) is None]
