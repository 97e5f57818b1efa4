"""A vision tower that does not train sees every image of a step once.

Its output is a constant of the step: rollout, old and reference log-probs and every micro-batch use what the first of
them computed. The reference model's tower has the same weights, so it shares the output too. A projector outside the
tower (InternVL) trains and is computed every time; a merger inside it (Qwen2.5-VL) is frozen with it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel, ProcessorMixin

from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.image_store import OF_THE_ENCODER, ImageStore, chat_text, process
from vision_zero.rollout.self_check import SelfCheckError, out_of_memory
from vision_zero.rollout.transformers_policy import evaluating

MOST_APART = 0.1
"""Rounding of bfloat16 is a few per cent after many layers."""


class FrozenTower:
    """Makes the towers of `models`, which have equal weights, one tower whose outputs the store of images keeps.

    `encoded` counts over the run. Raises ValueError for a model whose tower cannot be told from the rest, or has an
    adapter in it.
    """

    def __init__(self, models: Sequence[PreTrainedModel], images: ImageStore) -> None:
        self.images = images
        self.images.one_by_one = True
        self.encoded = 0
        self._model = models[0]
        self._caches = True
        for model in models:
            tower = model.get_encoder("image")
            if tower is model or tower is model.model:
                raise ValueError(f"freeze_vision: {type(model).__name__} has no vision tower by a name that is known")
            for name, module in tower.named_modules():
                if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                    raise ValueError(
                        f"freeze_vision: the adapter reaches into the vision tower ({name}); give lora_target_modules "
                        "that name layers of the language model alone, as '.*language_model.*(q_proj|v_proj)'"
                    )
            tower.requires_grad_(False)
            tower.forward = self._caching(tower, tower.forward)

    def encode(self, images: Sequence[GameImage], processor: ProcessorMixin) -> None:
        """Encode those of `images` that the rollout did not, on all processes in equally many calls.

        Under ZeRO-3 a forward waits for the other processes, so none may skip what another has to do.
        """
        text = chat_text(processor, "")
        numbers = [process(processor, text, image).image for image in {image.key: image for image in images}.values()]
        missing = [number for number in numbers if number not in self.images.tower_outputs]
        most = max(gather_object([len(missing)]))
        for number in missing + numbers[:1] * (most - len(missing)):
            self.images.tower_outputs.pop(number, None)
            self._features([number])

    def _features(self, numbers: Sequence[int]) -> Any:
        with torch.no_grad():
            return self._model.model.get_image_features(torch.tensor(numbers, device=self._model.device)[:, None])

    def check(self, images: Sequence[GameImage], processor: ProcessorMixin) -> None:
        """Compare features of two images from outputs that are joined with those of encoding them together.

        Raises SelfCheckError for a tower that mixes them. All processes have to call it.
        """
        self.encode(images, processor)
        numbers = list(range(len(self.images.keys)))
        with evaluating(self._model):
            self._caches = False
            together = self._features(numbers)
            self._caches = True
            try:
                joined = self._features(numbers)
                apart = max(_apart(joined[name], together[name]) for name in together.keys() - OF_THE_ENCODER)
            except (RuntimeError, ValueError) as error:
                if out_of_memory(error):
                    raise
                apart = 1.0
        if not apart < MOST_APART:
            name = type(self._model).__name__
            raise SelfCheckError(f"freeze_vision is not possible: the tower of {name} mixes images ({apart:.0%} apart)")

    def _caching(self, tower: torch.nn.Module, own_forward: Any) -> Any:
        """The tower's forward; that of images in the store, of one if it is not known, else of all together."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            numbers, known = self.images.encoding, self.images.tower_outputs
            if numbers is None or not self._caches:
                return own_forward(*args, **kwargs)
            if len(numbers) == 1 and numbers[0] not in known:
                self.encoded += 1
                with evaluating(tower):  # a cached output has no dropout, and nothing to checkpoint for
                    known[numbers[0]] = own_forward(*args, **kwargs)
            outputs = [known[number] for number in numbers]
            return type(outputs[0])(**{name: _joined([output[name] for output in outputs]) for name in outputs[0]})

        return forward


def _apart(one: Any, other: Any) -> float:
    """The largest distance of features, in the norm of `other`, over images and layers."""
    if isinstance(other, torch.Tensor):
        return float((one.float() - other.float()).norm() / other.float().norm())
    return max(_apart(*pair) for pair in zip(one, other, strict=True))


def _joined(values: list[Any]) -> Any:
    """Outputs of single images as those of all of them: tensors along their first dimension, lists one by one."""
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    return tuple(_joined(list(some)) for some in zip(*values, strict=True))
