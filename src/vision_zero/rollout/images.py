"""Preprocess every distinct image once per step, whoever asks for it and however often.

`memoize_images` teaches a processor's own image processor to remember what it made of each `GameImage`. Rollout and
TRL's training path then share one memo: an image that is in 5 prompts and 16 rows is resized and cut into patches once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from vision_zero.rollout.policy import GameImage


class ImageMemo:
    """Tensors by image key and processing options, for one step. `preprocessed` counts images over the run."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        self.preprocessed = 0

    def clear(self) -> None:
        self._tensors.clear()

    def look_up(self, image: GameImage, options: dict[str, Any], make: Any) -> dict[str, torch.Tensor]:
        key = (image.key, repr(sorted(options.items(), key=lambda item: item[0])))
        if key not in self._tensors:
            self.preprocessed += 1
            self._tensors[key] = {name: torch.as_tensor(value) for name, value in make().items()}
        return self._tensors[key]


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


def _distinct(parts: list[torch.Tensor]) -> tuple[list[int], list[int]]:
    """Which parts are the first of their content, and for every part the position of its content in that list."""
    firsts: list[int] = []
    owner: list[int] = []
    for index, part in enumerate(parts):
        same = (k for k, first in enumerate(firsts) if parts[first].shape == part.shape and parts[first].equal(part))
        position = next(same, len(firsts))
        if position == len(firsts):
            firsts.append(index)
        owner.append(position)
    return firsts, owner


def encode_equal_images_once(model: PreTrainedModel) -> None:
    """Let `model`'s vision tower see every distinct image of a batch once, however many rows show it.

    The G votes of a game and the clues of its civilians share an image. Features and gradients are those of encoding
    it in every row: the same features are used in each, so their gradients add up.
    """
    inner = model.model
    original = inner.get_image_features

    def get_image_features(
        pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        if image_grid_thw is None:  # one entry per tile
            parts = list(pixel_values.split(1))
            firsts, owner = _distinct(parts)
            output = original(torch.cat([parts[k] for k in firsts]), **kwargs)
            output.pooler_output = output.pooler_output[owner]
            return output
        parts = list(pixel_values.split(image_grid_thw.prod(-1).tolist()))
        firsts, owner = _distinct(parts)
        output = original(torch.cat([parts[k] for k in firsts]), image_grid_thw[firsts], **kwargs)
        output.pooler_output = tuple(output.pooler_output[k] for k in owner)
        return output

    inner.get_image_features = get_image_features
