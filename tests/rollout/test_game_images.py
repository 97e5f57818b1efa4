"""The images of a batch of games: opened once, hidden by the rules, and cheap to pass around."""

import copy
import pickle
import random
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tests.tiny_games import NoiseImage, noise_pairs, tiny_games
from vision_zero.rollout.game_images import (
    BLANK_COLOUR,
    MASK_COLOUR,
    GameImage,
    blank_image,
    masked_image,
    open_images,
)
from vision_zero.rollout.policy import TokenLimits
from vision_zero.types import ImagePair


def opened(pairs: list[ImagePair]) -> list[tuple[int, int]]:
    return [(pair.image.opened, pair.edited.opened if pair.edited else 0) for pair in pairs]


def test_every_distinct_image_is_opened_once_and_is_one_object() -> None:
    pairs = noise_pairs(2)
    games = tiny_games(6, pairs=pairs)  # three games on each pair
    images = open_images(games)
    assert opened(pairs) == [(1, 1), (1, 1)]
    assert set(images) == {(k, view) for k in range(6) for view in ("civilian", "spy")}
    assert len({id(image) for image in images.values()}) == 4
    for game in games:
        assert images[game.index, "civilian"].tobytes() == game.pair.image.open().tobytes()
        assert images[game.index, "spy"].tobytes() == game.pair.edited.open().tobytes()


def test_known_images_are_not_opened_again() -> None:
    pairs = noise_pairs(2)
    games = tiny_games(4, pairs=pairs)
    known = open_images(games[:1])
    images = open_images(games, known)
    assert opened(pairs) == [(1, 1), (1, 1)]
    assert images[0, "civilian"] is known[0, "civilian"]


def test_an_edited_image_that_nobody_is_shown_is_not_opened() -> None:
    for spy_view in ("blank", "masked"):
        pairs = noise_pairs(2)
        open_images(tiny_games(4, pairs=pairs, spy_view=spy_view))
        assert opened(pairs) == [(1, 0), (1, 0)]


def test_an_edited_image_of_another_size_is_shown_at_the_originals_size() -> None:
    pair = ImagePair("p", NoiseImage("a", (56, 84)), NoiseImage("b", (112, 168)))
    images = open_images(tiny_games(1, pairs=[pair]))
    assert images[0, "spy"].size == images[0, "civilian"].size == (56, 84)


def test_a_blank_view_is_uniform_has_the_images_size_and_is_shared_by_all_of_that_size() -> None:
    pairs = [*noise_pairs(2, edited=False, size=(60, 90)), ImagePair("other", NoiseImage("other", (56, 56)))]
    images = open_images(tiny_games(3, pairs=pairs))
    blanks = {images[k, "civilian"].size: images[k, "spy"] for k in range(3)}
    assert {size: image.size for size, image in blanks.items()} == {(60, 90): (60, 90), (56, 56): (56, 56)}
    assert all(
        np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist() == [[*BLANK_COLOUR]] for image in blanks.values()
    )
    assert len({id(images[k, "spy"]) for k in range(3)}) == 2
    assert blank_image((3, 5)).size == (3, 5)


@pytest.mark.parametrize(("share", "n_cells"), [(0.5, 32), (0.25, 16), (1.0, 64), (0.001, 1), (0.3, 19)])
@pytest.mark.parametrize("size", [(64, 64), (320, 240), (61, 93)])
def test_a_masked_image_hides_the_share_in_whole_cells(share: float, n_cells: int, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(130, 256, (size[1], size[0], 3), dtype=np.uint8)  # never the mask's grey
    masked = np.asarray(masked_image(Image.fromarray(pixels), share, random.Random(1)))
    hidden = (masked == MASK_COLOUR).all(-1)
    assert np.array_equal(masked[~hidden], pixels[~hidden])
    edges_y, edges_x = ([length * i // 8 for i in range(9)] for length in (size[1], size[0]))
    cells = [hidden[top:bottom, left:right] for top, bottom in pairwise(edges_y) for left, right in pairwise(edges_x)]
    assert all(cell.all() or not cell.any() for cell in cells)
    assert sum(bool(cell.all()) for cell in cells) == n_cells
    if size == (64, 64):
        assert hidden.mean() == n_cells / 64


def test_a_mask_is_a_function_of_seed_and_game() -> None:
    (pair,) = noise_pairs(1)

    def spy_pixels(seed: int) -> list[bytes]:
        images = open_images(tiny_games(4, seed=seed, pairs=[pair], spy_view="masked", mask_share=0.5))
        return [images[k, "spy"].tobytes() for k in range(4)]

    assert spy_pixels(0) == spy_pixels(0)
    assert len({*spy_pixels(0), *spy_pixels(1)}) == 8  # one of its own for every game of every run
    games = tiny_games(4, pairs=[pair], spy_view="masked")
    assert open_images(games[2:3])[2, "spy"].tobytes() == open_images(games)[2, "spy"].tobytes()
    civilian = open_images(games)[0, "civilian"]
    assert civilian.tobytes() == pair.image.open().tobytes()  # masking made a copy


def test_a_game_image_is_a_pil_image_that_copies_as_itself_and_pickles_as_its_key() -> None:
    pixels = NoiseImage("noise").open()
    image = GameImage("p/original", pixels)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (56, 56))
    assert np.array_equal(np.asarray(image), np.asarray(pixels))
    assert copy.deepcopy(image) is image
    assert copy.deepcopy([{"images": [image]}])[0]["images"][0] is image
    sent = pickle.dumps(image)
    assert len(sent) < 150
    received = pickle.loads(sent)
    assert (type(received), received.key, received.size) == (GameImage, "p/original", (1, 1))


def test_a_game_image_is_rgb_whatever_it_is_made_from() -> None:
    for mode in ("L", "RGBA", "P"):
        image = GameImage("key", NoiseImage("noise").open().convert(mode))
        assert (image.mode, np.asarray(image).shape) == ("RGB", (56, 56, 3))


@pytest.mark.parametrize(("minimum", "maximum"), [(-1, 4), (5, 4), (0, 0)])
def test_token_limits_that_allow_no_completion_are_refused(minimum: int, maximum: int) -> None:
    with pytest.raises(ValueError, match=f"got {minimum} and {maximum}"):
        TokenLimits(minimum, maximum)
