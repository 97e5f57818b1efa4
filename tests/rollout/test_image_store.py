"""Every distinct image is preprocessed and encoded once, and nothing but the number of computations changes."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_games import NoiseImage, bench_model, bench_processor
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.image_store import ImageStore, chat_text, look_images_up, store_of

SIZES = [(56, 56), (84, 56), (61, 93)]


def game_images(n: int = 3) -> list[GameImage]:
    return [GameImage(f"p{i}/original", NoiseImage(f"p{i}", SIZES[i % 3]).open()) for i in range(n)]


def plain(image: GameImage):
    """The same pixels without a key."""
    return copy.copy(image)


@pytest.mark.parametrize("shown", [[0], [0, 1, 2], [2, 0, 2, 1, 0, 0]])
def test_outputs_are_those_of_a_processor_without_a_memo(shown: list[int]) -> None:
    images = game_images()
    ours, stock = bench_processor(), bench_processor()
    memo = store_of(ours)
    batch = [[images[i]] for i in shown]
    texts = [chat_text(ours, f"text {i} " * (1 + i)) for i in range(len(shown))]
    for _ in range(2):  # computed, then remembered
        got = ours(text=texts, images=batch, padding=True, return_tensors="pt")
        expected = stock(
            text=texts, images=[[plain(image) for image in row] for row in batch], padding=True, return_tensors="pt"
        )
        assert set(got) == set(expected)
        for name in expected:
            assert torch.equal(got[name], expected[name]), name
            assert got[name].dtype == expected[name].dtype
    assert memo.preprocessed == len(set(shown))


def test_a_distinct_image_is_preprocessed_once_until_the_memo_is_cleared() -> None:
    processor = bench_processor()
    memo = store_of(processor)
    images = game_images(2)
    for _ in range(3):
        processor.image_processor(images=[images[0], images[1], images[0]], return_tensors="pt")
    # Another object under the same key is the same image.
    processor.image_processor(GameImage("p0/original", NoiseImage("p0").open()))
    assert memo.preprocessed == 2
    memo.clear()
    processor.image_processor(images=images)
    assert memo.preprocessed == 4


def test_options_are_part_of_what_is_remembered() -> None:
    processor = bench_processor()
    memo = store_of(processor)
    (image,) = game_images(1)
    default = processor.image_processor(images=[image])
    unscaled = processor.image_processor(images=[image], do_normalize=False)
    assert memo.preprocessed == 2
    assert not torch.equal(default["pixel_values"], unscaled["pixel_values"])
    again = processor.image_processor(images=[image], do_normalize=False, return_tensors="np")
    assert memo.preprocessed == 2
    assert torch.equal(again["pixel_values"], unscaled["pixel_values"])


def test_other_images_go_through_untouched() -> None:
    ours, stock = bench_processor(), bench_processor()
    memo = store_of(ours)
    keyed = game_images(1)[0]
    pixels = plain(keyed)
    for images in (pixels, [pixels], [[pixels], [pixels]], np.array(pixels), [keyed, pixels]):
        got = ours.image_processor(images=images, return_tensors="pt")
        expected = stock.image_processor(images=images, return_tensors="pt")
        assert {name: value.tolist() for name, value in got.items()} == {
            name: value.tolist() for name, value in expected.items()
        }
    assert memo.preprocessed == 0


def test_a_processor_has_one_memo_and_two_processors_have_two() -> None:
    first, second = bench_processor(), bench_processor()
    assert store_of(first) is store_of(first)
    assert store_of(first) is not store_of(second)
    first.image_processor(images=game_images(1))
    assert (store_of(first).preprocessed, store_of(second).preprocessed) == (1, 0)
    assert type(bench_processor().image_processor) is type(first.image_processor).own_class


def test_a_memoizing_processor_saves_the_files_it_saved_before(tmp_path: Path) -> None:
    processor = bench_processor()
    processor.save_pretrained(tmp_path / "before")
    store_of(processor)
    processor.image_processor(images=game_images(1))
    processor.save_pretrained(tmp_path / "after")
    saved = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("before", "after")]
    assert saved[0].keys() == saved[1].keys()
    assert saved[0] == saved[1]
    assert any(b"Qwen2VLImageProcessor" in content for content in saved[1].values())


def test_encoding_equal_images_once_changes_neither_logits_nor_gradients() -> None:
    """The second model gets numbers of images in place of their pixels."""
    processor, numbering = bench_processor(), bench_processor()
    store = store_of(numbering)
    images = game_images(2)
    shown = [images[i] for i in (0, 1, 0, 0, 1)]
    text = [chat_text(processor, f"row {i}") for i in range(5)]
    batch = processor(text=text, images=[[image] for image in shown], padding=True, return_tensors="pt")
    with store.numbered():
        stand_ins = numbering(text=text, images=[[image] for image in shown], padding=True, return_tensors="pt")
    n_patches = [4 * 4, 4 * 6]
    assert stand_ins["pixel_values"].tolist() == [[0], [1], [0], [0], [1]]
    assert stand_ins.keys() == {"pixel_values", "mm_token_type_ids"}
    stand_ins |= {name: batch[name] for name in ("input_ids", "attention_mask")}
    models = [bench_model(), bench_model()]
    look_images_up(models[1], store)
    patches: list[int] = []
    for model in models:
        model.model.visual.patch_embed.register_forward_hook(lambda m, args, out: patches.append(len(args[0])))
    logits = [model(**fields).logits for model, fields in zip(models, (batch, stand_ins), strict=True)]
    for out in logits:
        (out.log_softmax(-1)[..., 5] * torch.arange(out.shape[1])).mean().backward()
    assert patches == [3 * n_patches[0] + 2 * n_patches[1], sum(n_patches)]
    assert torch.allclose(*logits, atol=1e-5)
    parameters = dict(models[0].named_parameters())
    for name, parameter in models[1].named_parameters():
        if parameter.grad is None:
            assert parameters[name].grad is None, name
            continue
        expected = parameters[name].grad
        assert (parameter.grad - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-8, name


def test_a_model_that_looks_numbers_up_takes_pixels_too() -> None:
    processor = bench_processor()
    batch = processor(text=[chat_text(processor, "")], images=[game_images(1)], return_tensors="pt")
    model, plain_model = bench_model(), bench_model()
    look_images_up(model, ImageStore())
    assert torch.equal(model(**batch).logits, plain_model(**batch).logits)
