"""Cache of images: each distinct image is preprocessed once per step and encoded once per forward.

`memoize_images` makes a processor keep its tensors of each `GameImage` in an `ImageMemo`. Rollout and TRL's training
path share one memo, so an image in 5 prompts and 16 samples is resized and cut into patches once.

`look_images_up` makes a model accept the number of an image in place of its pixels (`NumberedImages`). TRL repeats
pixels in every row that shows an image, moves them to the device, splits them by row and joins them by micro-batch. A
stand-in has the shape that this needs, one integer per patch or tile; only the model's own `get_image_features` looks
up the pixels. Within `ImageMemo.by_number` the processor returns such stand-ins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from vision_zero.rollout.game_images import GameImage


class ImageMemo:
    """Tensors by image key and processing options, for one step. `preprocessed` counts images over the run."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        self._numbered: NumberedImages | None = None
        self.preprocessed = 0

    def clear(self) -> None:
        self._tensors.clear()

    def look_up(self, image: GameImage, options: dict[str, Any], make: Any) -> dict[str, torch.Tensor]:
        key = (image.key, repr(sorted(options.items(), key=lambda item: item[0])))
        if key not in self._tensors:
            self.preprocessed += 1
            self._tensors[key] = {name: torch.as_tensor(value) for name, value in make().items()}
        tensors = self._tensors[key]
        if self._numbered is None:
            return tensors
        return {**tensors, "pixel_values": self._numbered.stand_in(key, tensors["pixel_values"])}

    @contextmanager
    def by_number(self, images: NumberedImages) -> Iterator[None]:
        """Inside this context the processor returns the numbers of images in place of their pixels."""
        self._numbered = images
        try:
            yield
        finally:
            self._numbered = None


class _Memoizing:
    """Mixin of an image processor: preprocesses each `GameImage` once."""

    memo: ImageMemo
    own_class: type

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        flat = list(_flatten(images)) if isinstance(images, (list, tuple, GameImage)) else []
        make = super().__call__  # type: ignore[misc]  # mixed into an image processor
        if args or not flat or not all(isinstance(image, GameImage) for image in flat):
            return make(images, *args, **kwargs)
        options = {**kwargs, "return_tensors": "pt"}
        parts = [self.memo.look_up(image, options, lambda image=image: make([image], **options)) for image in flat]
        if len(parts) == 1:
            return BatchFeature(dict(parts[0]))
        return BatchFeature({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _flatten(images: Any) -> Iterator[Any]:
    if isinstance(images, Iterable) and not isinstance(images, GameImage):
        for image in images:
            yield from _flatten(image)
    else:
        yield images


def memoize_images(processor: ProcessorMixin) -> ImageMemo:
    """Give `processor` a memo of preprocessed images; a second call returns the same memo.

    The image processor stays an instance of its own class under its own name, so it is saved unchanged. Calls with
    anything but `GameImage`s are passed on.
    """
    image_processor = processor.image_processor
    own_class = type(image_processor)
    if not issubclass(own_class, _Memoizing):
        attributes = {"memo": ImageMemo(), "own_class": own_class}
        image_processor.__class__ = type(own_class.__name__, (_Memoizing, own_class), attributes)
    return image_processor.memo


class NumberedImages:
    """Pixels of a step's images by number. `encoding`: numbers that the vision tower encodes now, or None."""

    def __init__(self) -> None:
        self.pixels: list[torch.Tensor] = []
        self.encoding: list[int] | None = None
        self._numbers: dict[Any, int] = {}

    def clear(self) -> None:
        self.pixels.clear()
        self._numbers.clear()

    def stand_in(self, key: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Number of image `key`, shaped as its `pixels` [patches or tiles, ...] with all but the first dimension 1."""
        if key not in self._numbers:
            self._numbers[key] = len(self.pixels)
            self.pixels.append(pixels)
        return torch.full((len(pixels), *[1] * (pixels.ndim - 1)), self._numbers[key])

    def shown(self, stand_ins: torch.Tensor) -> list[int]:
        """Number of the image of each row of a batch; neighbouring rows may show the same image."""
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
    """Let `model` accept stand-ins for pixels; its vision tower encodes each distinct image of a forward once.

    Rows that show an image share its features, so their gradients add up: features and gradients are those of encoding
    the image in every row. Pixels are passed on.
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
