"""Editors of photographs that follow words: InstructPix2Pix (arXiv 2211.09800) and FLUX.1 Kontext (arXiv 2506.15742).

Both are diffusers pipelines. This module has the options of `data.photos` and those of the editors, and makes the maker
of both. The editor is opened in the process that uses it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from PIL import Image

from vision_zero.make_data.maker import MakingError, Rejected
from vision_zero.make_data.photos import maker

if TYPE_CHECKING:
    import torch

EditorName = Literal["instruct-pix2pix", "flux-kontext"]
EDITORS: tuple[EditorName, ...] = get_args(EditorName)

MODELS: Mapping[EditorName, str] = {
    "instruct-pix2pix": "timbrooks/instruct-pix2pix",
    "flux-kontext": "black-forest-labs/FLUX.1-Kontext-dev",
}


@dataclass(frozen=True)
class DiffusionEditor:
    """Which editor, and how it is run. Raises ValueError for options that make no sense.

    `model` is a folder or a name on the Hub; None takes the authors' weights. `steps` and `guidance` None take what the
    authors use: 100 steps, 7.5 for InstructPix2Pix, 28 steps, 2.5 for FLUX Kontext. `image_guidance` is
    InstructPix2Pix's second scale, how far the result keeps to the original; FLUX Kontext has none.
    """

    name: EditorName
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
        """Load the pipeline. Raises MakingError, with the model's name, for what cannot be loaded."""
        # Imported here, because scenes and charts are made by the same main and need not wait for them.
        import torch
        from diffusers import FluxKontextPipeline, StableDiffusionInstructPix2PixPipeline

        kinds = {"instruct-pix2pix": StableDiffusionInstructPix2PixPipeline, "flux-kontext": FluxKontextPipeline}
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        model = self.model or MODELS[self.name]
        try:
            pipeline = kinds[self.name].from_pretrained(model, dtype=torch.bfloat16 if on_gpu else torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MakingError(f"editor {self.name}, model {model}: {first_line}") from error
        pipeline.set_progress_bar_config(disable=True)
        yield OpenEditor(self, pipeline.to("cuda" if on_gpu else "cpu"))


class OpenEditor:
    """An editor in memory. The same arguments give the same image on the same machine."""

    def __init__(self, options: DiffusionEditor, pipeline: Any) -> None:
        self.options = options
        self.pipeline = pipeline

    def edit(self, image: Image.Image, instruction: str, seed: int) -> Image.Image:
        """The image as the instruction says, RGB, of the same size.

        Raises Rejected if the pipeline's safety checker took the result away: what it returns then is black.
        """
        import torch

        # On the CPU whatever the device: the noise, and with it the edit, does not depend on the kind of GPU.
        generator = torch.Generator("cpu").manual_seed(seed)
        if self.options.name == "instruct-pix2pix":
            result = self._instruct_pix2pix(image, instruction, generator)
        else:
            result = self._flux_kontext(image, instruction, generator)
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            raise Rejected("refused by the editor's safety checker")
        edited: Image.Image = result.images[0].convert("RGB")
        # Pipelines make sides that are multiples of 8 or 16.
        return edited if edited.size == image.size else edited.resize(image.size, Image.Resampling.LANCZOS)

    def _instruct_pix2pix(self, image: Image.Image, instruction: str, generator: torch.Generator) -> Any:
        return self.pipeline(
            prompt=instruction,
            image=image,
            num_inference_steps=self.options.steps or 100,
            guidance_scale=7.5 if self.options.guidance is None else self.options.guidance,
            image_guidance_scale=self.options.image_guidance,
            generator=generator,
            output_type="pil",
        )

    def _flux_kontext(self, image: Image.Image, instruction: str, generator: torch.Generator) -> Any:
        return self.pipeline(
            prompt=instruction,
            image=image,
            width=image.width,
            height=image.height,
            max_area=self.options.max_area,
            num_inference_steps=self.options.steps or 28,
            guidance_scale=2.5 if self.options.guidance is None else self.options.guidance,
            generator=generator,
            output_type="pil",
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of photographs and of their editors."""
    maker.add_arguments(parser)
    parser.add_argument(
        "--editor", choices=("none", *EDITORS), default="none", help="an editor that follows words, in place of --edits"
    )
    parser.add_argument("--editor_model", metavar="PATH", help="folder or Hub name (default: the authors' weights)")
    parser.add_argument("--editor_steps", type=int, help="denoising steps (default: 100; flux-kontext: 28)")
    parser.add_argument("--editor_guidance", type=float, help="weight of the words (default: 7.5; flux-kontext: 2.5)")
    parser.add_argument(
        "--editor_image_guidance",
        type=float,
        default=DiffusionEditor.image_guidance,
        help="instruct-pix2pix: weight of the original (default: %(default)s)",
    )
    parser.add_argument(
        "--editor_max_area",
        type=int,
        default=DiffusionEditor.max_area,
        help="flux-kontext: pixels of the image it draws, shrunk to the photograph's after (default: %(default)s)",
    )
    parser.add_argument("--editor_use_cpu", action="store_true", help="leave a GPU alone")


def from_arguments(args: argparse.Namespace) -> maker.PhotoMaker:
    """The maker of parsed options, with its editor if one is asked for. Raises ValueError."""
    if args.editor == "none":
        return maker.from_arguments(args)
    editor = DiffusionEditor(
        name=args.editor,
        model=args.editor_model,
        steps=args.editor_steps,
        guidance=args.editor_guidance,
        image_guidance=args.editor_image_guidance,
        max_area=args.editor_max_area,
        use_cpu=args.editor_use_cpu,
    )
    return maker.from_arguments(args, editor)
