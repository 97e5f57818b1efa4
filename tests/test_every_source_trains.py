"""A training step on what each tool makes and on each layout that published sets have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from tests.trainer_helpers import BENCH_MODEL, make_trainer, one_step
from vision_zero.data.hf_datasets import KNOWN_COLUMNS
from vision_zero.data.pairs import load_pairs
from vision_zero.models import load_processor
from vision_zero.types import Domain

DATA = Path(__file__).resolve().parent.parent / "data"
IMAGES = DATA / "clevr" / "images"
MAX_PIXELS = 3136


def sample(name: str) -> Callable[[Path], Path]:
    return lambda _: DATA / name


def official(folder: Path) -> Path:
    for image in sorted(IMAGES.iterdir())[:4]:
        shutil.copy(image, folder)
    return folder


def chartqa(folder: Path) -> Path:
    for kind in ("png", "tables"):
        (folder / kind).mkdir()
    for number in range(2):
        name = f"chart_{number:06d}"
        shutil.copy(DATA / "charts" / "images" / f"{name}_original.png", folder / "png" / f"{name}.png")
        (folder / "tables" / f"{name}.csv").write_text("Year,Sales\n2001,3\n2002,5\n")
    return folder


def clevr(folder: Path) -> Path:
    (folder / "images").mkdir()
    (folder / "scenes").mkdir()
    scenes = []
    for number in range(2):
        comparison = json.loads((DATA / "clevr" / "scenes" / f"clevr_{number:06d}_comparison.json").read_text())
        name = f"CLEVR_train_{number:06d}.png"
        shutil.copy(IMAGES / f"clevr_{number:06d}_original.png", folder / "images" / name)
        scenes.append({**comparison["original_scene"], "image_filename": name})
    (folder / "scenes" / "CLEVR_train_scenes.json").write_text(json.dumps({"info": {}, "scenes": scenes}))
    return folder


def table(before: str, after: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        names = sorted(IMAGES.iterdir())[:4]  # modified, original, modified, original
        cells = [{"bytes": name.read_bytes(), "path": None} for name in names]
        is_list = before.endswith("s")  # ImgEdit
        rows = {before: cells[1::2], after: cells[0::2]}
        Dataset.from_dict(
            {name: [[cell] if is_list else cell for cell in some] for name, some in rows.items()}
        ).to_parquet(str(folder / "train.parquet"))
        return folder

    return write


SOURCES: dict[str, tuple[Callable[[Path], Path], Domain, bool]] = {
    "make_data clevr": (sample("clevr"), "scenes", True),
    "make_data charts": (sample("charts"), "charts", True),
    "make_data photos": (sample("photo_pairs"), "photos", True),
    "drawings": (sample("drawn"), "photos", True),
    "a folder of photographs": (sample("photos"), "photos", False),
    "official pairs": (official, "photos", True),
    "ChartQA": (chartqa, "charts", False),
    "CLEVR": (clevr, "scenes", False),
    **{" -> ".join(columns): (table(*columns), "photos", True) for columns in KNOWN_COLUMNS},
}
"""Name -> how it is written to a folder, its domain, and whether the images have edits."""


@pytest.mark.parametrize("name", SOURCES)
def test_a_step_trains_on_it(name: str, tmp_path: Path) -> None:
    write, domain, has_edits = SOURCES[name]
    source = tmp_path / "source"
    source.mkdir()
    pairs = load_pairs(str(write(source)))
    assert len(pairs) >= 2
    assert {pair.domain for pair in pairs} == {domain}
    assert all((pair.edited is not None) == has_edits for pair in pairs)
    processor = load_processor(str(BENCH_MODEL), max_pixels=MAX_PIXELS)
    step = one_step(make_trainer(tmp_path / "run", pairs=pairs, processor=processor, games=2, template="auto"))
    assert {game.spy_view for game in step.rollout.games} == {"edited" if has_edits else "blank"}
    assert any(gradient.any() for gradient in step.gradient.values())


@pytest.mark.parametrize("name", ["clevr", "charts", "photo_pairs"])
def test_samples_say_how_they_were_made(name: str) -> None:
    folder = DATA / name
    options = json.loads((folder / "options.json").read_text())
    pairs = load_pairs(str(folder))
    assert options["n"] == len(pairs) == 16
    assert json.loads((folder / "summary.json").read_text())["pairs"] == 16
    assert all(pair.meta for pair in pairs)
