"""Processors: padding side, and image sizes by Qwen's own rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from qwen_vl_utils import smart_resize

from vision_zero.models import load_processor

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
