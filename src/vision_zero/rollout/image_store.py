"""The images of an iteration in one store: what the processor makes of each, and what a model's encoder makes of that.

`store_of` gives a processor its store. Each distinct `GameImage` is preprocessed once, and known by a number; `process`
reads a prompt with its image. Rollout and TRL's training path share one store.

`look_images_up` makes a model accept the numbers of images [images, 1] in place of pixels. TRL repeats pixels in every
row that shows an image, moves them to the device and splits them by row; a number is one row of one column. The model
gets all fields of its processor by number (sizes, grids, masks, tiles), encodes each distinct image of a forward once,
and has the features joined in the order of the rows, whatever its family calls them. No family is named here.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from vision_zero.rollout.game_images import GameImage

IMAGES_AT_ONCE = 64
GRIDS = "image_grid_thw"
"""The field that a model reads beside its encoder, for positions."""
OF_THE_ENCODER = {"last_hidden_state", "hidden_states", "attentions"}
"""Of the output of `get_image_features`: what a language model does not read."""

Features = dict[str, list[torch.Tensor]]
"""Of one image: by output and layer, [image tokens, hidden]."""


@dataclass(frozen=True)
class ProcessedPrompt:
    """Token ids with the image's placeholders, the processor's other fields per token, and the image's number."""

    ids: list[int]
    per_token: dict[str, list[int]]
    image: int


def last_fields(prompts: Sequence[ProcessedPrompt], width: int, device: Any = None) -> dict[str, torch.Tensor]:
    """Numbers of images, and the fields of the last `width` tokens of each prompt, which is padded left."""
    per_token = {
        name: [([0] * width + one.per_token[name])[-width:] for one in prompts] for name in prompts[0].per_token
    }
    fields = {**per_token, "pixel_values": [[one.image] for one in prompts]}
    return {name: torch.tensor(value, device=device) for name, value in fields.items()}


class ImageStore:
    """Fields of images by number, until `clear`. `preprocessed` counts images over the store's life.

    `encoding`: numbers that a model encodes now, or None. `tower_outputs`: those of a tower that does not train
    (`trainer.frozen_vision`), which encodes images `one_by_one`. `around`: the chat template before and after a text.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.encoding: list[int] | None = None
        self.tower_outputs: dict[int, Any] = {}
        self.one_by_one = self.by_number = False
        self.around: list[str] | None = None
        self.preprocessed = 0
        self._fields: list[dict[str, torch.Tensor]] = []
        self._prompts: list[list[int]] = []
        self._numbers: dict[str, int] = {}
        self._tensors: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        self._kept: dict[str, Features] | None = None

    def clear(self) -> None:
        for some in (self.keys, self.tower_outputs, self._fields, self._prompts, self._numbers, self._tensors):
            some.clear()

    def preprocess(self, image: GameImage, options: dict[str, Any], make: Any) -> dict[str, torch.Tensor]:
        """The image processor's tensors of `image`, made once for these `options`."""
        key = (image.key, repr(sorted(options.items(), key=lambda item: item[0])))
        if key not in self._tensors:
            self.preprocessed += 1
            self._tensors[key] = {name: torch.as_tensor(value) for name, value in make().items()}
        return self._tensors[key]

    def number(self, key: str, fields: dict[str, torch.Tensor], prompt: list[int]) -> int:
        """The number of image `key`, with all its `fields`; `prompt` are token ids that show it."""
        if key not in self._numbers:
            self._numbers[key] = len(self.keys)
            self.keys.append(key)
            self._fields.append(fields)
            self._prompts.append(prompt)
        return self._numbers[key]

    def n_tokens(self, number: int, image_token: int) -> int:
        return self._prompts[number].count(image_token)

    def names(self) -> set[str]:
        return set(self._fields[0])

    def fields(self, numbers: Sequence[int], device: torch.device, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Fields of these images, one after the other. An image of fewer tiles has zeros, as processors pad it."""
        some = [self._fields[number] for number in numbers]
        return {name: torch.cat(_as_large([one[name] for one in some])).to(device) for name in names}

    def grids(self, numbers: Sequence[int], device: torch.device) -> torch.Tensor | None:
        """Patch grids of these images [images, 3], None for a family that has none."""
        return self.fields(numbers, device, [GRIDS])[GRIDS] if GRIDS in self.names() else None

    @contextmanager
    def numbered(self) -> Iterator[None]:
        """Inside this context the processor returns numbers of images in place of their fields."""
        self.by_number = True
        try:
            yield
        finally:
            self.by_number = False

    @contextmanager
    def keeping(self, features: dict[str, Features]) -> Iterator[None]:
        """Inside this context features of images are kept in `features`, by key, and taken from there."""
        self._kept = features
        try:
            yield
        finally:
            self._kept = None

    def features(self, shown: Sequence[int], encode: Callable[[list[int]], list[Features]]) -> list[Features]:
        """Features of the images `shown`; `encode` gives those of distinct images."""
        known = {} if self._kept is None else self._kept
        missing = [number for number in dict.fromkeys(shown) if self.keys[number] not in known]
        at_once = len(missing) if self._kept is None else 1 if self.one_by_one else IMAGES_AT_ONCE
        for start in range(0, len(missing), at_once):
            self.encoding = missing[start : start + at_once]
            try:
                known |= zip([self.keys[number] for number in self.encoding], encode(self.encoding), strict=True)
            finally:
                self.encoding = None
        return [known[self.keys[number]] for number in shown]


def _as_large(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """`values` with zeros behind them, so that they differ in their first dimension alone."""
    largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)][::-1]
    missing = [[most - size for most, size in zip(largest, value.shape[:0:-1], strict=True)] for value in values]
    return [
        pad(value, [side for size in sizes for side in (0, size)]) for value, sizes in zip(values, missing, strict=True)
    ]


# ------------------------------------------------------------------------------------------------------- the processor


class _Preprocessing:
    """Mixin of an image processor: preprocesses each `GameImage` once."""

    store: ImageStore

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        flat = list(_flatten(images)) if isinstance(images, (list, tuple, GameImage)) else []
        make = super().__call__  # type: ignore[misc]  # mixed into an image processor
        if args or not flat or not all(isinstance(image, GameImage) for image in flat):
            return make(images, *args, **kwargs)
        options = {**kwargs, "return_tensors": "pt"}
        parts = [self.store.preprocess(image, options, lambda image=image: make([image], **options)) for image in flat]
        if len(parts) == 1:
            return BatchFeature(dict(parts[0]))
        return BatchFeature({name: torch.cat(_as_large([part[name] for part in parts])) for name in parts[0]})


class _Numbering:
    """Mixin of a processor: within `ImageStore.numbered` it returns numbers of images, and what it says per token."""

    store: ImageStore

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        if not self.store.by_number:
            return super().__call__(images=images, text=text, **kwargs)  # type: ignore[misc]  # a processor's
        rows = {(one, some[0].key): some[0] for one, some in zip(text, images, strict=True)}
        read = {row: self.process(row[0], image) for row, image in rows.items()}
        prompts = [read[one, some[0].key] for one, some in zip(text, images, strict=True)]
        return BatchFeature(last_fields(prompts, max(len(prompt.ids) for prompt in prompts)))

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.store.by_number:
            return super().apply_chat_template(conversation, *args, **kwargs)  # type: ignore[misc]
        (message,) = conversation
        return chat_text(self, message["content"][1]["text"])

    def process(self, text: str, image: GameImage) -> ProcessedPrompt:
        own = super().__call__  # type: ignore[misc]  # a processor's
        fields = dict(own(text=[text], images=[[image]], return_tensors="pt", **special_tokens(self, text)))
        ids = fields.pop("input_ids")
        fields.pop("attention_mask")
        tokens = {name for name, value in fields.items() if value.shape == ids.shape}
        per_token = {name: fields.pop(name)[0].tolist() for name in tokens}
        return ProcessedPrompt(ids[0].tolist(), per_token, self.store.number(image.key, fields, ids[0].tolist()))


def _flatten(images: Any) -> Iterator[Any]:
    if isinstance(images, Iterable) and not isinstance(images, GameImage):
        for image in images:
            yield from _flatten(image)
    else:
        yield images


def chat_text(processor: Any, text: str) -> str:
    """Prompt in the model's chat template: one image placeholder, then `text`, then the start of the answer.

    The template is asked once: applying it to every prompt would cost as much as tokenizing the prompt.
    """
    store, between = store_of(processor), "the text of a turn"
    if store.around is None:
        content = [{"type": "image"}, {"type": "text", "text": between}]
        message = {"role": "user", "content": content}
        rendered = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        store.around = rendered.split(between)
    return text.join(store.around)


def special_tokens(processor: Any, text: str) -> dict[str, bool]:
    """Whether the tokenizer may add its own to a rendered template: not a second BOS, as in `apply_chat_template`."""
    bos = processor.tokenizer.bos_token
    return {"add_special_tokens": not (bos and text.startswith(bos))}


def store_of(processor: ProcessorMixin) -> ImageStore:
    """The store of `processor`; the first call makes it.

    Processor and image processor stay instances of their own classes under their own names, so they are saved
    unchanged. Calls with anything but `GameImage`s are passed on.
    """
    if not isinstance(processor, _Numbering):
        store = ImageStore()
        for part, mixin in ((processor.image_processor, _Preprocessing), (processor, _Numbering)):
            own = getattr(part, "own_class", type(part))
            part.__class__ = type(own.__name__, (mixin, own), {"store": store, "own_class": own})
    return processor.store


def process(processor: ProcessorMixin, text: str, image: GameImage) -> ProcessedPrompt:
    """A prompt in the model's chat template with its image, as `processor` reads it, and its image in the store."""
    store_of(processor)
    return processor.process(text, image)


# ----------------------------------------------------------------------------------------------------------- the model


def look_images_up(model: PreTrainedModel, store: ImageStore) -> None:
    """Let `model` accept numbers of images of `store`, and of the last store that it is given. Pixels are passed on.

    Rows that show an image share its features, so their gradients add up: features and gradients are those of encoding
    the image in every row. Raises ValueError for a model that does not encode images by themselves.
    """
    inner = model.model
    is_done = "image_store" in vars(inner)
    inner.image_store = store
    if is_done:
        return
    if not hasattr(inner, "get_image_features"):
        raise ValueError(f"{type(model).__name__} does not encode an image by itself")
    own = inner.get_image_features
    of_forward, of_encoder = (
        inspect.signature(getattr(type(inner), name)).parameters.keys() for name in ("forward", "get_image_features")
    )
    image_token = model.config.image_token_id
    form: dict[str, Any] = {}  # of the family's output, the same for all images

    def with_fields(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        shown = kwargs.get("pixel_values")
        if shown is None or shown.is_floating_point():
            return args, kwargs
        names = inner.image_store.names() - {"pixel_values"}
        if lost := sorted(names - of_forward):
            raise ValueError(f"{type(model).__name__} has {', '.join(lost)}, which its forward does not take")
        # What else there is goes to the encoder alone, and is as large as the pixels.
        return args, {**kwargs, **inner.image_store.fields(shown.flatten().tolist(), shown.device, names & {GRIDS})}

    def get_image_features(pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if pixel_values.is_floating_point():
            return own(pixel_values, *args, **kwargs)
        images = inner.image_store

        def encode(numbers: list[int]) -> list[Features]:
            names = images.names()
            options = {name: value for name, value in kwargs.items() if name not in names} | {"return_dict": True}
            output = own(**options, **images.fields(numbers, pixel_values.device, names & of_encoder))
            pooled = output.pooler_output
            form["class"] = type(output)
            form["shape"] = pooled.shape[1:] if isinstance(pooled, torch.Tensor) else None
            return _by_image(output, [images.n_tokens(number, image_token) for number in numbers])

        found = images.features(pixel_values.flatten().tolist(), encode)
        layers = {name: list(zip(*(one[name] for one in found), strict=True)) for name in found[0]}
        joined: dict[str, Any] = {name: [torch.cat(parts) for parts in some] for name, some in layers.items()}
        (pooled,) = joined.pop("pooler_output")
        if form["shape"] is None:
            pooled = tuple(one["pooler_output"][0] for one in found)
        elif len(form["shape"]) > 1:  # tiles [tiles, tokens, hidden]
            pooled = pooled.view(-1, *form["shape"])
        output = form["class"]()
        for name, value in {**joined, "pooler_output": pooled}.items():
            setattr(output, name, value)  # some families' class has no such field
        return output

    inner.get_image_features = get_image_features
    inner.register_forward_pre_hook(with_fields, with_kwargs=True)


def _by_image(output: Any, n_tokens: Sequence[int]) -> list[Features]:
    """Split what an encoder says of several images. Raises ValueError where it has not one row per image token."""
    parts: list[Features] = [{} for _ in n_tokens]
    for name, value in {**output, "pooler_output": output.pooler_output}.items():
        if value is None or name in OF_THE_ENCODER:
            continue
        several = list(value) if isinstance(value, (list, tuple)) else [value]
        layers = [layer.flatten(0, -2) for layer in ([torch.cat(several)] if name == "pooler_output" else several)]
        if wrong := [len(layer) for layer in layers if len(layer) != sum(n_tokens)]:
            raise ValueError(f"{sum(n_tokens)} image tokens in a prompt, for {wrong[0]} image features ({name})")
        for part, some in zip(parts, zip(*(layer.split(list(n_tokens)) for layer in layers), strict=True), strict=True):
            part[name] = list(some)
    return parts
