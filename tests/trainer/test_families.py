"""The trainer on every model family that is supported: tiny random models, made from their configurations."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from safetensors import safe_open
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
)

from tests.by_hand import HandRow, hand_rows, hand_step, largest_difference, processor_inputs, row_logps
from tests.tiny_families import (
    save_gemma3,
    save_glm4v,
    save_llava_onevision,
    save_mistral3,
    save_qwen2_vl,
    save_qwen3_vl,
    save_smolvlm,
)
from tests.trainer_helpers import (
    BENCH_MODEL,
    GradientRecorder,
    RandomImage,
    make_trainer,
    of_many_lengths,
    one_step,
    random_pairs,
    record_rollouts,
)
from vision_zero.models import load_model, load_processor
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.image_store import chat_text, process, store_of
from vision_zero.rollout.lora import language_layers
from vision_zero.types import Stage

TEMPERATURE = 0.8
ONE_TILE, THREE_TILES = (56, 56), (112, 56)
INTERNVL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<IMG_CONTEXT>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A saved model and the size of the images it is shown. `tokens_per_image` counts placeholders."""

    name: str
    folder: Path
    image_size: tuple[int, int]
    tokens_per_image: int
    unused: frozenset[str] = frozenset()
    """Weights that its own forward does not use."""

    def load(self) -> Any:
        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32)

    def processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.folder)


def save_qwen(folder: Path) -> None:
    torch.manual_seed(0)
    text = {
        "vocab_size": 853,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 48}
    tokens = {"image_token_id": 7, "video_token_id": 8, "vision_start_token_id": 4, "vision_end_token_id": 5}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config={**vision, "fullatt_block_indexes": [1]}, tie_word_embeddings=False, **tokens
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.json"):
        shutil.copyfile(BENCH_MODEL / name, folder / name)


def save_internvl(folder: Path, head_dim: int = 16) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(
        BENCH_MODEL,
        chat_template=INTERNVL_TEMPLATE,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    vision = InternVLVisionConfig(
        hidden_size=2 * head_dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=56,
        patch_size=14,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=2 * head_dim,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.context_image_token_id, image_seq_length=4
    )
    InternVLForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 56, "width": 56}
    images = GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=4)
    videos = InternVLVideoProcessor(size=size)
    InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=INTERNVL_TEMPLATE).save_pretrained(
        folder
    )


MORE: dict[str, tuple[Callable[[Path], Path], tuple[int, int], int]] = {
    "qwen2-vl": (save_qwen2_vl, ONE_TILE, 4),
    "qwen3-vl": (save_qwen3_vl, (64, 64), 4),
    "qwen3-vl-moe": (partial(save_qwen3_vl, experts=True), (64, 64), 4),
    "gemma3": (save_gemma3, ONE_TILE, 4),
    "smolvlm2": (save_smolvlm, THREE_TILES, 12),
    "llava-onevision": (save_llava_onevision, THREE_TILES, 52),
    "glm-4.1v": (save_glm4v, ONE_TILE, 4),
    "mistral3": (save_mistral3, ONE_TILE, 4),
}
"""By name: the maker of a tiny model, the size of its images, and their placeholders."""


def saved_family(name: str, folder: Path) -> Family:
    """Of `qwen2.5-vl`, `internvl3`, `internvl3 in tiles` and `MORE`."""
    if name in MORE:
        save, size, n_tokens = MORE[name]
        norm = "model.vision_tower.post_layernorm."  # features are taken before it
        unused = {f"{norm}{name}" for name in ("weight", "bias")} if name == "llava-onevision" else ()
        return Family(name, save(folder), size, n_tokens, frozenset(unused))
    if name == "qwen2.5-vl":
        save_qwen(folder)
        return Family(name, folder, ONE_TILE, 4)
    save_internvl(folder)
    if name == "internvl3":
        return Family(name, folder, ONE_TILE, 4)
    return Family(name, folder, THREE_TILES, 12)  # two tiles and a thumbnail


FAMILIES = ["qwen2.5-vl", "internvl3", "internvl3 in tiles", *MORE]
TWO_STAGES: dict[str, Any] = {"schedule": "cycle", "cycle_decision": 1, "cycle_clue": 1, "iterations": 2}


def family_fixture(names: Sequence[str], slow: Sequence[str] = ()) -> Any:
    """A fixture `family` of a module: each of `names`, and those of `slow` in slow tests."""

    @pytest.fixture(scope="module", params=[*names, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)])
    def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
        return saved_family(request.param, tmp_path_factory.mktemp("family"))

    return family


family = family_fixture(FAMILIES)


def family_trainer(family: Family, tmp_path: Path, **config: Any) -> Any:
    return make_trainer(
        tmp_path,
        model=family.folder,
        processor=load_processor(str(family.folder)),
        pairs=random_pairs(size=family.image_size),
        temperature=TEMPERATURE,
        players=of_many_lengths,
        **config,
    )


# ------------------------------------------------------------------------------------------------------ one step each


@pytest.mark.parametrize("stage", ["decision", "clue"])
def test_gradient_is_the_one_by_hand(family: Family, tmp_path: Path, stage: Stage) -> None:
    step = one_step(family_trainer(family, tmp_path, schedule=stage))
    processor = family.processor()
    rows = hand_rows(step.rollout.games, stage)
    hand = hand_step(
        family.load(), family.load(), processor, rows, temperature=TEMPERATURE, kl_weight=0.04, loss_type="grpo"
    )
    assert largest_difference(step.gradient, hand.gradient)[0] < 1e-5
    for row in rows:
        ids = processor_inputs(processor, row.text, row.image)["input_ids"][0].tolist()
        assert list(row.prompt_ids) == ids
        assert ids.count(family.load().config.image_token_id) == family.tokens_per_image


def test_logprobs_of_sampling_are_those_of_a_plain_forward(family: Family, tmp_path: Path) -> None:
    step = one_step(family_trainer(family, tmp_path))
    model, processor = family.load(), family.processor()
    for stage in ("decision", "clue"):
        said = [one for game in step.rollout.games for one in (game.clues if stage == "clue" else game.votes)]
        for one, row in zip(said, hand_rows(step.rollout.games, stage), strict=True):
            with torch.no_grad():
                by_forward = row_logps(model, processor, row, TEMPERATURE)
            assert one.completion.logprobs == pytest.approx(by_forward.tolist(), abs=1e-5)


def test_a_run_through_both_stages_moves_every_parameter_and_is_saved(family: Family, tmp_path: Path) -> None:
    trainer = family_trainer(
        family,
        tmp_path,
        **TWO_STAGES,
        save_strategy="steps",
        save_steps=1,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    rollouts, recorder = record_rollouts(trainer), GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    assert [entry["stage/is_clue"] for entry in trainer.state.log_history[:2]] == [0.0, 1.0]
    assert len(rollouts) == 2
    for gradient in recorder.steps:
        assert gradient.keys() == before.keys() - family.unused
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in family.unused), name

    for folder in ("checkpoint-2", "checkpoint-2/export"):
        reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path / folder, dtype=torch.float32)
        state = trainer.model.state_dict()
        assert reloaded.state_dict().keys() == state.keys()
        for name, value in reloaded.state_dict().items():
            assert torch.equal(value, state[name]), (folder, name)
    export, base = (safe_open(path / "model.safetensors", "pt") for path in (tmp_path / folder, family.folder))
    assert {name: export.get_slice(name).get_shape() for name in export.keys()} == {  # noqa: SIM118
        name: base.get_slice(name).get_shape()
        for name in base.keys()  # noqa: SIM118
    }, "the export has the names and the layout of the Hub"
    row = hand_rows(rollouts[1].games, "clue")[0]
    processor = AutoProcessor.from_pretrained(tmp_path / "checkpoint-2" / "export")
    ids = processor_inputs(processor, row.text, row.image)["input_ids"][0].tolist()
    assert list(row.prompt_ids) == ids

    resumed = family_trainer(family, tmp_path, **TWO_STAGES, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for (name, parameter), (_, resumed_parameter) in zip(
        trainer.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert torch.equal(parameter, resumed_parameter), name


def test_every_image_is_preprocessed_once(family: Family, tmp_path: Path) -> None:
    trainer = family_trainer(family, tmp_path)
    step = one_step(trainer)
    assert step.log["rollout/images/preprocessed"] == 4  # two games, an original and an edited image each
    assert trainer.images.preprocessed == 4


# --------------------------------------------------------------------------------------------------------------- memo


def images_of_sizes(*sizes: tuple[int, int]) -> list[Image.Image]:
    return [RandomImage(seed, size).open() for seed, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "sizes", [(ONE_TILE,), (THREE_TILES,), (ONE_TILE, ONE_TILE), (ONE_TILE, THREE_TILES), (THREE_TILES, (56, 112))]
)
def test_memo_gives_the_tensors_of_the_plain_processor(family: Family, sizes: tuple[tuple[int, int], ...]) -> None:
    plain, memoized = load_processor(str(family.folder)), load_processor(str(family.folder))
    memo = store_of(memoized)
    images = images_of_sizes(*sizes)
    named = [GameImage(f"image{k}", image) for k, image in enumerate(images)]
    content = [{"type": "image"}, {"type": "text", "text": "red cube"}]
    text = plain.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    texts = [text + " cube" * k for k in range(len(images))]
    expected = plain(text=texts, images=[[image] for image in images], padding=True, return_tensors="pt")
    for _ in range(2):  # the second time from the memo
        got = memoized(text=texts, images=[[image] for image in named], padding=True, return_tensors="pt")
        assert dict(got).keys() == dict(expected).keys()
        for name, value in expected.items():
            assert torch.equal(got[name], value), name
    assert memo.preprocessed == len(images)

    expected = plain.image_processor(images=[[image] for image in images], return_tensors="pt")
    got = memoized.image_processor(images=[[image] for image in named], return_tensors="pt")
    assert dict(got).keys() == dict(expected).keys()
    for name, value in expected.items():
        assert torch.equal(got[name], torch.as_tensor(value)), name


def test_memo_leaves_other_images_alone_and_saves_as_the_plain_processor(family: Family, tmp_path: Path) -> None:
    plain, memoized = load_processor(str(family.folder)), load_processor(str(family.folder))
    memo = store_of(memoized)
    assert store_of(memoized) is memo
    image = images_of_sizes(ONE_TILE)[0]
    expected = plain.image_processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(memoized.image_processor(image, return_tensors="pt")["pixel_values"], expected)
    assert memo.preprocessed == 0
    plain.save_pretrained(tmp_path / "plain")
    memoized.save_pretrained(tmp_path / "memoized")
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "memoized" / path.name).read_bytes(), path.name


def test_rows_of_hand_are_what_the_trainer_saw(family: Family, tmp_path: Path) -> None:
    """The test's own rows differ between spy and civilians; else the comparisons above would prove little."""
    step = one_step(family_trainer(family, tmp_path, schedule="clue"))
    rows: list[HandRow] = hand_rows(step.rollout.games, "clue")
    assert len({row.image.tobytes() for row in rows}) == 4
    assert len({row.text for row in rows}) == len(rows)


# --------------------------------------------------------------------------------------------------------------- LoRA


def test_lora_adapts_the_language_model_alone_and_is_merged(family: Family, tmp_path: Path) -> None:
    on_meta = load_model(family.folder, device_map="meta")
    layers = language_layers(on_meta)
    trainer = family_trainer(
        family,
        tmp_path,
        **TWO_STAGES,
        learning_rate=1e-3,
        save_strategy="steps",
        save_steps=2,
        peft_config=LoraConfig(r=2, target_modules=layers, lora_dropout=0.0),
    )
    start = {name: weight.clone() for name, weight in family.load().state_dict().items()}
    adapters = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    where = trainer.model.get_base_model().get_decoder()
    assert adapters
    assert {id(weight) for weight in trainer.model.parameters() if weight.requires_grad} <= {
        id(weight) for weight in where.parameters()
    }
    attention = [name for name in adapters if any(f"{one}_proj.lora_B" in name for one in "qkvo")]
    assert len(attention) == 4 * on_meta.config.get_text_config().num_hidden_layers
    trainer.train()
    export = trainer.export(tmp_path / "checkpoint-2")
    merged = AutoModelForImageTextToText.from_pretrained(export, dtype=torch.float32).state_dict()
    assert merged.keys() == start.keys()
    changed = {name for name in start if not torch.equal(start[name], merged[name])}
    assert len(changed) == len(adapters) // 2
    assert all("language_model" in name or "text_model" in name for name in changed)


# -------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("name", "bound", "tokens"),
    [
        ("qwen3-vl", 64 * 64, 4),
        ("internvl3 in tiles", 2 * 56 * 56, 3 * 4),  # two tiles and a thumbnail
        ("internvl3 in tiles", 1, 4),
        ("smolvlm2", 56 * 56, 4),
        ("mistral3", 56 * 56, 4),
    ],
)
def test_large_images_are_reduced_by_the_rule_of_their_family(
    name: str, bound: int, tokens: int, tmp_path: Path
) -> None:
    folder, image = saved_family(name, tmp_path).folder, GameImage("large", Image.new("RGB", (4000, 3000)))
    processor = load_processor(str(folder), max_pixels=bound)
    ids = process(processor, chat_text(processor, ""), image).ids
    assert ids.count(load_model(folder, device_map="meta").config.image_token_id) <= tokens
    with pytest.raises(ValueError, match="min_pixels"):
        load_processor(str(folder), min_pixels=99, max_pixels=bound if name != "qwen3-vl" else 9)


def test_a_bound_on_images_of_one_size_says_that_it_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_processor(str(saved_family("gemma3", tmp_path).folder), max_pixels=99)
    assert "max_pixels changes nothing: Gemma3ImageProcessor has sizes of its own for images" in capsys.readouterr().err
