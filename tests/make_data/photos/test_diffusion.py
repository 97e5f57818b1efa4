"""The two diffusers pipelines, tiny and random but whole: saved to a folder, loaded from it, asked by keyword."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from vision_zero.make_data.maker import MakerError, Rejected
from vision_zero.make_data.photos.diffusion import DiffusionEditor
from vision_zero.make_data.photos.maker import PhotoMaker, add_arguments, from_arguments

PHOTOS = Path(__file__).resolve().parents[3] / "data" / "photos"
TOLD = "make the cat blue"


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters alone: a vocabulary without merges."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", *TOLD.split()]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def clip_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            projection_dim=32,
        )
    )


def autoencoder(latent_channels: int, **more: object) -> AutoencoderKL:
    """Eight pixels a latent, as the real ones."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=1,
        **more,
    )


@pytest.fixture(scope="module")
def instruct_pix2pix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pix2pix")
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "clip")
    StableDiffusionInstructPix2PixPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=8,
            in_channels=8,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=4,
        ),
        scheduler=EulerAncestralDiscreteScheduler(),
        vae=autoencoder(4),
        text_encoder=clip_text_encoder(tokenizer),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def flux_kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kontext")
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = clip_tokenizer(folder / "clip"), t5_tokenizer()
    FluxKontextPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip_text_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(tokenizer_2), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        ),
        tokenizer_2=tokenizer_2,
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(PHOTOS / "cat.jpg").convert("RGB").resize((100, 70))  # no multiples of 8


def editor(name: str, model: Path, **options: object) -> DiffusionEditor:
    return DiffusionEditor(name, str(model), steps=2, use_cpu=True, max_area=64 * 96, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["instruct-pix2pix", "flux-kontext"])
def test_an_edit_is_a_function_of_image_words_and_seed(
    name: str, photo: Image.Image, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name.replace("-", "_"))
    with editor(name, model).open() as opened:
        edited = opened(photo, TOLD, 3)
        assert edited.size == photo.size
        assert edited.mode == "RGB"
        assert np.array(edited).std() > 0
        torch.manual_seed(99)
        assert opened(photo, TOLD, 3).tobytes() == edited.tobytes()
        assert opened(photo, TOLD, 4).tobytes() != edited.tobytes()
        assert opened(photo, "the the the", 3).tobytes() != edited.tobytes()
        flipped = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert opened(flipped, TOLD, 3).tobytes() != edited.tobytes()
    with editor(name, model, guidance=1.5).open() as opened:
        assert opened(photo, TOLD, 3).tobytes() != edited.tobytes()


def test_the_maker_makes_pairs_with_a_pipeline(instruct_pix2pix: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.txt"
    told.write_text(TOLD)
    maker = PhotoMaker(
        photos=(str(PHOTOS),),
        size=(96, 96),
        max_changed=1,  # an untrained editor leaves nothing as it was
        editor=editor("instruct-pix2pix", instruct_pix2pix),
        instructions=told,
    )
    with maker.open() as make:
        first, again = make(random.Random("a"), 2), make(random.Random("a"), 2)
    assert first.edited.tobytes() == again.edited.tobytes()
    assert first.edited.size == first.original.size
    assert first.meta["instruction"] == TOLD
    assert first.meta["changed"] > 0.02


def test_what_the_safety_checker_took_away_is_rejected(photo: Image.Image) -> None:
    class Blackened:
        images = (Image.new("RGB", (96, 64)),)
        nsfw_content_detected = (True,)

    with pytest.raises(Rejected, match="safety checker"):
        DiffusionEditor("instruct-pix2pix").edit(lambda **_: Blackened(), photo, TOLD, 0)


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for options, message in (({"steps": 0}, "steps"), ({"max_area": 10}, "max_area"), ({"name": "paint"}, "paint")):
        with pytest.raises(ValueError, match=message):
            DiffusionEditor(**{"name": "flux-kontext", **options})  # type: ignore[arg-type]
    absent = DiffusionEditor("flux-kontext", str(tmp_path / "absent"), use_cpu=True)
    with pytest.raises(MakerError, match=r"editor flux-kontext, model .*absent"), absent.open():
        pass


def test_arguments_reach_the_editor() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = "--photos a --editor flux-kontext --editor_model m --editor_steps 4 --editor_guidance 3 --editor_use_cpu"
    args = parser.parse_args([*given.split(), "--editor_max_area", "65536", "--editor_image_guidance", "1.2"])
    args.size = None
    assert from_arguments(args).editor == DiffusionEditor(
        "flux-kontext", "m", steps=4, guidance=3.0, image_guidance=1.2, max_area=65536, use_cpu=True
    )
    plain = parser.parse_args(["--photos", "a"])
    plain.size = None
    assert from_arguments(plain) == PhotoMaker(photos=("a",))
