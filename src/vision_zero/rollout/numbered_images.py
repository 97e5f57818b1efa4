"""Batches carry the number of an image in place of its pixels, so that rows that share an image share everything.

TRL repeats an image's pixels in every row that shows it, moves all of them to the device, cuts them by row and joins
them by micro-batch. A stand-in has the shape that all this needs, one integer per patch or tile; only the model's own
`get_image_features` looks the pixels up, and encodes every distinct image of a forward once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel


class NumberedImages:
    """The pixels of a step's images by number, in order of appearance.

    `encoding` are the numbers that the vision tower sees at this moment, None if it sees other pixels.
    """

    def __init__(self) -> None:
        self.pixels: list[torch.Tensor] = []
        self.encoding: list[int] | None = None
        self._numbers: dict[Any, int] = {}

    def clear(self) -> None:
        self.pixels.clear()
        self._numbers.clear()

    def stand_in(self, key: Any, pixels: torch.Tensor) -> torch.Tensor:
        """The number of the image `key` with the dimensions of its `pixels` [patches or tiles, ...], all but one 1."""
        if key not in self._numbers:
            self._numbers[key] = len(self.pixels)
            self.pixels.append(pixels)
        return torch.full((len(pixels), *[1] * (pixels.ndim - 1)), self._numbers[key])

    def shown(self, stand_ins: torch.Tensor) -> list[int]:
        """The image of every row of a batch, which may be the same in rows beside each other."""
        entries = stand_ins.flatten().tolist()
        shown: list[int] = []
        place = 0
        while place < len(entries):
            shown.append(entries[place])
            place += len(self.pixels[entries[place]])
        return shown

    def pixels_of(self, numbers: Sequence[int], device: torch.device) -> torch.Tensor:
        for number in numbers:
            self.pixels[number] = self.pixels[number].to(device)
        return torch.cat([self.pixels[number] for number in numbers])

    @contextmanager
    def encodes(self, numbers: list[int]) -> Iterator[None]:
        self.encoding = numbers
        try:
            yield
        finally:
            self.encoding = None


def look_images_up(model: PreTrainedModel, images: NumberedImages) -> None:
    """Let `model` take stand-ins for pixels. Its vision tower sees every distinct image of a forward once.

    Features and gradients are those of encoding the image in every row that shows it: the same features are used in
    each, so their gradients add up. Pixels go through untouched.
    """
    inner = model.model
    original = inner.get_image_features

    def get_image_features(
        pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        grid = {} if image_grid_thw is None else {"image_grid_thw": image_grid_thw}
        if pixel_values.is_floating_point():
            return original(pixel_values, **grid, **kwargs)
        shown = images.shown(pixel_values)
        numbers = list(dict.fromkeys(shown))
        if image_grid_thw is not None:
            grid = {"image_grid_thw": image_grid_thw[[shown.index(number) for number in numbers]]}
        with images.encodes(numbers):
            output = original(images.pixels_of(numbers, pixel_values.device), **grid, **kwargs)
        features = output.pooler_output
        if isinstance(features, torch.Tensor):  # one entry per tile, an image has several
            features = features.split([len(images.pixels[number]) for number in numbers])
            output.pooler_output = torch.cat([features[numbers.index(number)] for number in shown])
        else:
            output.pooler_output = tuple(features[numbers.index(number)] for number in shown)
        return output

    inner.get_image_features = get_image_features
