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
from vision_zero.rollout.image_cache import NumberedImages
from vision_zero.rollout.transformers_policy import evaluating, image_fields


class FrozenTower:
    """Makes the towers of `models`, which have equal weights, one tower with a cache. `encoded` counts over the run.

    Raises ValueError for a model whose tower cannot be told from the rest, or has an adapter in it.
    """

    def __init__(self, models: Sequence[PreTrainedModel], images: NumberedImages) -> None:
        self.images = images
        self.encoded = 0
        self._outputs: dict[int, Any] = {}
        self._model = models[0]
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

    def clear(self) -> None:
        """Clear the cache, before other images are shown."""
        self._outputs.clear()

    def encode(self, images: Sequence[GameImage], processor: ProcessorMixin) -> None:
        """Encode those of `images` that the rollout did not, on all processes in equally many calls.

        Under ZeRO-3 a forward waits for the other processes, so none may skip what another has to do. The processor
        hands out numbers (`ImageMemo.by_number`).
        """
        fields = {}
        for image in {image.key: image for image in images}.values():
            one = image_fields(processor, image)
            fields[self.images.shown(one["pixel_values"])[0]] = one
        missing = [number for number in fields if number not in self._outputs]
        most = max(gather_object([len(missing)]))
        for number in missing + [next(iter(fields))] * (most - len(missing)):
            self._outputs.pop(number, None)
            with torch.no_grad():
                self._model.model.get_image_features(
                    **{name: value.to(self._model.device) for name, value in fields[number].items()}
                )

    def _caching(self, tower: torch.nn.Module, own_forward: Any) -> Any:
        def forward(pixel_values: torch.Tensor, *args: Any, grid_thw: torch.Tensor | None = None, **kwargs: Any) -> Any:
            grid = {} if grid_thw is None else {"grid_thw": grid_thw}
            numbers = self.images.encoding
            if numbers is None:
                return own_forward(pixel_values, *args, **grid, **kwargs)
            parts = pixel_values.split([len(self.images.pixels[number]) for number in numbers])
            for place, (number, pixels) in enumerate(zip(numbers, parts, strict=True)):
                if number not in self._outputs:
                    own_grid = {name: value[place : place + 1] for name, value in grid.items()}
                    self.encoded += 1
                    with evaluating(tower):  # a cached output has no dropout, and nothing to checkpoint for
                        self._outputs[number] = own_forward(pixels, *args, **own_grid, **kwargs)
            outputs = [self._outputs[number] for number in numbers]
            return type(outputs[0])(**{name: _joined([output[name] for output in outputs]) for name in outputs[0]})

        return forward


def _joined(values: list[Any]) -> Any:
    """Outputs of single images as those of all of them: tensors along their first dimension, lists one by one."""
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    return tuple(_joined(list(some)) for some in zip(*values, strict=True))
