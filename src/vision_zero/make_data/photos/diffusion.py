"""Learned editors of photographs: InstructPix2Pix (arXiv 2211.09800) and FLUX.1 Kontext (arXiv 2506.15742).

Both are diffusers pipelines, loaded in the process that uses them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from vision_zero.make_data.maker import MakerError, Rejected

EDITORS = {
    "instruct-pix2pix": ("timbrooks/instruct-pix2pix", 100, 7.5),
    "flux-kontext": ("black-forest-labs/FLUX.1-Kontext-dev", 28, 2.5),
}
"""The authors' weights, steps and guidance, by the editor's name."""
OpenEditor = Callable[[Image.Image, str, int], Image.Image]
"""The edit of an image by an instruction and a seed. The same three give the same image on the same machine."""


@dataclass(frozen=True)
class DiffusionEditor:
    """Options of an editor. Raises ValueError for invalid ones.

    `model` is a folder or a name on the Hub. `model`, `steps` and `guidance` None take the authors' (EDITORS).
    `image_guidance` is InstructPix2Pix's second scale, the weight of the original; FLUX Kontext has none.
    """

    name: str
    model: str | None = None
    steps: int | None = None
    guidance: float | None = None
    image_guidance: float = 1.5
    max_area: int = 1024 * 1024
    use_cpu: bool = False

    def __post_init__(self) -> None:
        if self.name not in EDITORS:
            raise ValueError(f"editor must be one of {', '.join(EDITORS)}, got {self.name!r}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"editor_steps must be at least 1, got {self.steps}")
        if self.max_area < 64 * 64:
            raise ValueError(f"editor_max_area must be at least 4096 pixels, got {self.max_area}")

    @contextmanager
    def open(self) -> Iterator[OpenEditor]:
        """Load the pipeline. Raises MakerError, with the model's name, if it cannot be loaded."""
        # Imported here, because scenes and charts are made by the same main and need not wait for them.
        import torch
        from diffusers import FluxKontextPipeline, StableDiffusionInstructPix2PixPipeline

        kinds = {"instruct-pix2pix": StableDiffusionInstructPix2PixPipeline, "flux-kontext": FluxKontextPipeline}
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        model = self.model or EDITORS[self.name][0]
        try:
            pipeline = kinds[self.name].from_pretrained(model, dtype=torch.bfloat16 if on_gpu else torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MakerError(f"editor {self.name}, model {model}: {first_line}") from error
        pipeline.set_progress_bar_config(disable=True)
        yield partial(self.edit, pipeline.to("cuda" if on_gpu else "cpu"))

    def edit(self, pipeline: Any, image: Image.Image, instruction: str, seed: int) -> Image.Image:
        """The edited image, RGB, of the same size. Raises Rejected if the safety checker replaced it by a black one."""
        import torch

        # On the CPU whatever the device: the noise, and with it the edit, does not depend on the kind of GPU.
        generator = torch.Generator("cpu").manual_seed(seed)
        own: dict[str, Any] = {"width": image.width, "height": image.height, "max_area": self.max_area}
        if self.name == "instruct-pix2pix":
            own = {"image_guidance_scale": self.image_guidance}
        _, steps, guidance = EDITORS[self.name]
        result = pipeline(
            prompt=instruction,
            image=image,
            num_inference_steps=self.steps or steps,
            guidance_scale=guidance if self.guidance is None else self.guidance,
            generator=generator,
            output_type="pil",
            **own,
        )
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            raise Rejected("refused by the editor's safety checker")
        edited: Image.Image = result.images[0].convert("RGB")
        # Pipelines make sides that are multiples of 8 or 16.
        return edited if edited.size == image.size else edited.resize(image.size, Image.Resampling.LANCZOS)
