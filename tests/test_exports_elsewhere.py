"""Exports of every family in transformers 4.57, in which many evaluation tools run, beside the version that trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_families import as_published
from tests.trainer.test_families import FAMILIES, THREE_TILES, TWO_STAGES, family_trainer, saved_family
from tests.trainer_helpers import RandomImage

pytestmark = pytest.mark.slow

READER = Path(__file__).parent / "read_exports.py"
ELDER = ("transformers==4.57.6", "huggingface_hub==0.36.0", "tokenizers==0.22.2")
"""The last of its line, and of the packages that it bounds; all else is this environment's."""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By family, FOLDER=IMAGE of a model that was trained in both stages."""
    made = {}
    for name in FAMILIES:
        folder = tmp_path_factory.mktemp("export")
        family = saved_family(name, tmp_path_factory.mktemp("family"))
        as_published(family.folder)
        family_trainer(family, folder, **TWO_STAGES, save_strategy="steps", save_steps=2).train()
        image = folder / "image.png"
        RandomImage(3, THREE_TILES if family.image_size == THREE_TILES else family.image_size).open().save(image)
        made[name] = f"{folder}/checkpoint-2/export={image}"
    return made


def read(folder: Path, path: str, exports: dict[str, str], seen: Path | str = "") -> Path:
    """The file that the reader leaves."""
    out = folder / "found.pt"
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, READER, out, seen, *exports.values()], env=environment, check=True)
    return out


@pytest.fixture(scope="module")
def found(exports: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What this version and 4.57 found, which saw the images as this one does."""
    path = tmp_path_factory.mktemp("elder")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", path, *ELDER]
    subprocess.run(command, check=True)
    now = read(tmp_path_factory.mktemp("now"), "", exports)
    elder = torch.load(read(tmp_path_factory.mktemp("found"), str(path), exports, now), weights_only=False)
    assert elder["version"] == ELDER[0].split("==")[1]
    return torch.load(now, weights_only=False), elder


@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_is_the_same_model_there(
    name: str, exports: dict[str, str], found: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    here, there = (by_folder[exports[name].split("=")[0]] for by_folder in found)
    for one in (here, there):
        assert not isinstance(one, str), one
        assert one["missing"] == []
        assert one["unexpected"] == []
    torch.testing.assert_close(here["words"], there["words"], atol=1e-5, rtol=0)
    if name == "smolvlm2":  # 4.57 gives patches of whole images other places (`SmolVLMVisionEmbeddings`)
        assert (here["logits"] - there["logits"]).abs().max() > 0.01
    else:
        torch.testing.assert_close(here["logits"], there["logits"], atol=1e-4, rtol=1e-4)
    assert torch.equal(here["inputs"]["input_ids"], there["inputs"]["input_ids"])
    images = (one["inputs"]["pixel_values"].flatten() for one in (here, there))
    level = 2 / 255 + 1e-5 if name == "smolvlm2" else 1e-5  # 4.57 rounds it otherwise when it changes its size
    torch.testing.assert_close(*images, atol=level, rtol=0)
