"""Caches that grow in place and start from what an earlier prompt left."""

import pytest
import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from vision_zero.rollout import kv_cache
from vision_zero.rollout.kv_cache import SPARE_TOKENS, GrowingLayer, PrefixStore, common_length, joined

HEADS, SIZE = 2, 3
IMAGE = 7


def states(batch: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, HEADS, tokens, SIZE, generator=generator) for _ in range(2))


def test_a_growing_layer_holds_what_the_stock_layer_holds() -> None:
    ours, stock = GrowingLayer(), DynamicLayer()
    for step, tokens in enumerate([5, 1, 1, SPARE_TOKENS, 1, 2 * SPARE_TOKENS + 3]):
        update = states(4, tokens, step)
        for got, expected in zip(ours.update(*update), stock.update(*update), strict=True):
            assert torch.equal(got, expected)
        if step == 2:
            rows = torch.tensor([2, 0, 0])
            for layer in (ours, stock):
                layer.batch_select_indices(rows)
            assert torch.equal(ours.keys, stock.keys)
            update_rows = states(3, 1, 99)
            assert torch.equal(ours.update(*update_rows)[1], stock.update(*update_rows)[1])
            ours, stock = GrowingLayer(), DynamicLayer()
    assert ours.get_seq_length() == stock.get_seq_length()


def test_one_more_token_is_written_in_place_until_the_room_is_used_up() -> None:
    layer = GrowingLayer(*states(2, 5, 0))
    start = layer.keys.data_ptr()
    for step in range(SPARE_TOKENS):
        layer.update(*states(2, 1, step))
        assert layer.keys.data_ptr() == start
    layer.update(*states(2, 1, 1))
    assert layer.keys.data_ptr() != start
    assert layer.get_seq_length() == 5 + SPARE_TOKENS + 1


def test_selected_rows_do_not_share_memory() -> None:
    layer = GrowingLayer(*states(1, 3, 0))
    layer.batch_select_indices(torch.tensor([0, 0]))
    layer.update(*states(2, 1, 5))
    assert torch.equal(layer.keys[0, :, :3], layer.keys[1, :, :3])
    assert not torch.equal(layer.keys[0, :, 3], layer.keys[1, :, 3])


@pytest.mark.parametrize(
    ("left", "right", "length"), [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 9, 3], [1, 2, 3], 1)]
)
def test_common_length(left: list[int], right: list[int], length: int) -> None:
    assert common_length(left, right) == common_length(right, left) == length


def store_with(prompts: dict[str, list[int]], n_layers: int = 2) -> tuple[PrefixStore, Cache, torch.Tensor]:
    """A store that remembers `prompts`, prefilled as one left-padded batch of random keys and values."""
    longest = max(map(len, prompts.values()))
    layers = [GrowingLayer(*states(len(prompts), longest, number)) for number in range(n_layers)]
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts.values()])
    store, cache = PrefixStore(), Cache(layers=layers)
    store.remember([(name, 0) for name in prompts], list(prompts.values()), cache, mask)
    return store, cache, mask


@pytest.mark.parametrize(
    ("ids", "length"),
    [
        ([1, IMAGE, IMAGE, 4, 5, 9, 9], 5),  # parts after five tokens
        ([1, IMAGE, IMAGE, 4, 5, 6, 8, 2], 6),  # goes on where the known one ends
        ([1, IMAGE, IMAGE, 4, 5, 6], 5),  # equal: the last token is computed, for its logits
        ([1, IMAGE, IMAGE, 4, 5], 4),  # a beginning of the known one
        ([1, IMAGE, 4, 5], 2),  # a smaller image, all of it shared
        ([1, IMAGE, IMAGE, IMAGE, 4], 0),  # parts inside the image
        ([IMAGE, IMAGE], 0),
        ([3], 0),
    ],
)
def test_what_is_reusable_ends_at_the_first_difference_and_never_inside_the_image(ids: list[int], length: int) -> None:
    store, _, _ = store_with({"image": [1, IMAGE, IMAGE, 4, 5, 6]})
    assert store.find("image", ids, IMAGE)[1] == length
    assert store.find("another image", ids, IMAGE) == (None, 0)
    store.clear()
    assert store.find("image", ids, IMAGE) == (None, 0)


def test_conversations_about_one_image_reuse_from_the_one_that_has_most() -> None:
    store, cache, mask = store_with({"image": [1, 2, 3, 4]})
    store.remember([("image", 1)], [[1, 2, 7, 8]], cache, mask)
    for ids, length, known in (
        ([1, 2, 3, 9], 3, [1, 2, 3, 4]),
        ([1, 2, 7, 8, 9], 4, [1, 2, 7, 8]),
        ([1, 5], 1, [1, 2, 3, 4]),
    ):
        found, n = store.find("image", ids, IMAGE)
        assert found is not None
        assert (found.ids, n) == (known, length)


def test_of_many_conversations_only_those_with_more_in_common_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand games on a few images would else spend longer looking for prefixes than computing them."""
    store = PrefixStore()
    layers = [GrowingLayer(*states(1, 3, 0))]
    for game in range(300):
        prompt = [1, IMAGE, *range(100, 200), 300 + game % 3, 400 + game]
        store.remember([("image", game)], [prompt], Cache(layers=layers), torch.ones(1, 3))
    counted: list[int] = []

    def watched(known: list[int], ids: list[int]) -> int:
        counted.append(common_length(known, ids))
        return counted[-1]

    monkeypatch.setattr(kv_cache, "common_length", watched)
    found, length = store.find("image", [1, IMAGE, *range(100, 200), 302, 400 + 299, 9], IMAGE)
    assert found is not None
    assert (found.ids[-1], length) == (699, 104)
    assert counted == [102, 103, 104]


def test_a_cache_holds_each_rows_beginning_right_aligned() -> None:
    store, known, mask = store_with({"a": [1, 2, 3, 4, 5], "b": [6, 7, 8]})
    assert mask[1].tolist() == [0, 0, 1, 1, 1]
    rows = [("b", [6, 7, 0]), ("new", [1]), ("a", [1, 2, 3, 4, 0]), ("a", [1, 0])]
    cache = store.cache([store.find(name, ids, IMAGE) for name, ids in rows], n_layers=2)
    for layer, source in zip(cache.layers, known.layers, strict=True):
        for side in ("keys", "values"):
            rows, whole = getattr(layer, side), getattr(source, side)
            assert rows.shape == (4, HEADS, 4, SIZE)
            assert torch.equal(rows[0, :, 2:], whole[1, :, 2:4])  # b's first two, after its two pads
            assert not rows[0, :, :2].any()
            assert not rows[1].any()
            assert torch.equal(rows[2], whole[0, :, :4])
            assert torch.equal(rows[3, :, 3:], whole[0, :, :1])


def test_a_cache_of_nothing_known_is_empty() -> None:
    cache = PrefixStore().cache([(None, 0), (None, 0)], n_layers=3)
    assert len(cache.layers) == 3
    assert cache.get_seq_length() == 0


def test_the_last_prompt_of_a_conversation_is_the_one_that_is_kept() -> None:
    store, cache, mask = store_with({"a": [1, 2, 3]})
    store.remember([("a", 0)], [[1, 9, 3]], cache, mask)
    assert store.find("a", [1, 2, 3, 4], IMAGE)[1] == 1
    assert store.find("a", [1, 9, 3, 4], IMAGE)[1] == 3


def test_what_is_kept_does_not_change_when_the_cache_grows_or_loses_rows() -> None:
    store, cache, _ = store_with({"a": [1, 2, 3], "b": [4, 5, 6]})
    before = cache.layers[0].keys[1].clone()
    cache.batch_select_indices(torch.tensor([0]))
    for step in range(SPARE_TOKENS + 2):
        cache.layers[0].update(*states(1, 1, step))
    known = store.find("b", [4, 5, 6, 0], IMAGE)
    assert torch.equal(store.cache([known], n_layers=2).layers[0].keys[0], before)


def test_caches_are_joined_right_aligned_in_the_order_asked_for() -> None:
    short, long = GrowingLayer(*states(2, 3, 0)), GrowingLayer(*states(1, 5, 1))
    layer = joined([Cache(layers=[short]), Cache(layers=[long])], torch.tensor([2, 0, 1])).layers[0]
    for side in ("keys", "values"):
        rows = getattr(layer, side)
        assert rows.shape == (3, HEADS, 5, SIZE)
        assert torch.equal(rows[0], getattr(long, side)[0])
        assert torch.equal(rows[1:, :, 2:], getattr(short, side))
        assert not rows[1:, :, :2].any()
    layer.update(*states(3, 1, 2))
    assert layer.get_seq_length() == 6
