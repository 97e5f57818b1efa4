"""Models with all their weights or not at all; processors: padding side, and image sizes by Qwen's own rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from qwen_vl_utils import smart_resize

from tests.process_helpers import TINY_VLM, without_weight
from vision_zero.models import load_model, load_processor

BENCH_MODEL = str(Path(__file__).parent / "models" / "bench_model")
PATCH = 14


@pytest.mark.parametrize("size", [(320, 240), (56, 56), (640, 200), (37, 111)])
@pytest.mark.parametrize(("lowest", "highest"), [(3136, 12544), (3136, 76800), (50176, 100352)])
def test_images_are_resized_by_qwens_rule(size: tuple[int, int], lowest: int, highest: int) -> None:
    processor = load_processor(BENCH_MODEL, lowest, highest)
    grid = processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0]
    height, width = smart_resize(size[1], size[0], factor=2 * PATCH, min_pixels=lowest, max_pixels=highest)
    assert grid.tolist() == [1, height // PATCH, width // PATCH]


def test_prompts_are_padded_left() -> None:
    assert load_processor(BENCH_MODEL).tokenizer.padding_side == "left"


@pytest.mark.parametrize(("lowest", "highest"), [(5000, 4000), (0, 12544), (-1, None)])
def test_bounds_that_hold_no_image_are_refused(lowest: int, highest: int | None) -> None:
    with pytest.raises(ValueError, match=f"min_pixels={lowest}"):
        load_processor(BENCH_MODEL, lowest, highest)


def test_tied_weights_are_not_missing() -> None:
    assert load_model(TINY_VLM).num_parameters() == load_model(TINY_VLM, device_map="meta").num_parameters()


@pytest.mark.parametrize("device_map", [None, "meta"])
def test_missing_weights_are_not_made_up(device_map: str | None, tmp_path: Path) -> None:
    folder = without_weight(Path(BENCH_MODEL), tmp_path / "model", "mlp")
    with pytest.raises(ValueError, match=rf"model {folder}: its files lack the weights model\..* and \d+ more"):
        load_model(folder, device_map=device_map)


def test_a_file_that_is_cut_is_named(tmp_path: Path) -> None:
    folder = without_weight(Path(BENCH_MODEL), tmp_path / "model", "mlp")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"model {folder}: "):
        load_model(folder)
