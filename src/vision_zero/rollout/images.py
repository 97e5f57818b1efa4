"""Preprocess every distinct image once per step, whoever asks for it and however often.

`memoize_images` teaches a processor's own image processor to remember what it made of each `GameImage`. Rollout and
TRL's training path then share one memo: an image that is in 5 prompts and 16 rows is resized and cut into patches once.
For batches in which many rows show an image, `by_number` gives its number instead (`numbered_images`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

from vision_zero.rollout.numbered_images import NumberedImages
from vision_zero.rollout.policy import GameImage


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
        """While this lasts, the processor hands out the numbers of images in place of their pixels."""
        self._numbered = images
        try:
            yield
        finally:
            self._numbered = None


def _flatten(images: Any) -> Iterator[Any]:
    if isinstance(images, Iterable) and not isinstance(images, GameImage):
        for image in images:
            yield from _flatten(image)
    else:
        yield images


def memoize_images(processor: ProcessorMixin) -> ImageMemo:
    """Give `processor` a memo of preprocessed images; calling it twice returns the memo it has.

    The image processor stays an instance of its own class under its own name (saving it is unchanged); calls with
    anything but `GameImage`s go through untouched.
    """
    image_processor = processor.image_processor
    own_class = type(image_processor)
    if issubclass(own_class, _Memoizing):
        return own_class.memo
    name = own_class.__name__
    image_processor.__class__ = type(name, (_Memoizing, own_class), {"memo": ImageMemo(), "own_class": own_class})
    return image_processor.memo


class _Memoizing:
    memo: ImageMemo
    own_class: type

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        flat = list(_flatten(images)) if isinstance(images, (list, tuple, GameImage)) else []
        if args or not flat or not all(isinstance(image, GameImage) for image in flat):
            return super().__call__(images, *args, **kwargs)  # type: ignore[misc]  # mixed into an image processor
        options = {**kwargs, "return_tensors": "pt"}
        make = super().__call__  # type: ignore[misc]
        parts = [self.memo.look_up(image, options, lambda image=image: make([image], **options)) for image in flat]
        if len(parts) == 1:
            return BatchFeature(dict(parts[0]))
        return BatchFeature({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
