"""Key-value cache that reuses common prefixes of prompts and appends tokens without copying.

All prompts of a game have a common prefix (image, rules, clues so far). `PrefixStore` keeps the keys and values of the
last prompt of every conversation; the next prompt of that conversation reuses those of the tokens that both have in
common. They equal the recomputed ones up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 64


class GrowingLayer(DynamicLayer):
    """Dynamic layer with spare capacity: a new token is written in place, and capacity grows by `SPARE_TOKENS`.

    Keys and values are [batch, heads, tokens, head_dim] views of larger buffers. The stock layer concatenates, which
    copies the whole cache for every sampled token.
    """

    def __init__(self, keys: torch.Tensor | None = None, values: torch.Tensor | None = None) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.update(keys, values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            batch, heads, _, size = key_states.shape
            shape = (batch, heads, end + SPARE_TOKENS)
            bigger = (key_states.new_empty(*shape, size), value_states.new_empty(*shape, value_states.shape[-1]))
            if start:
                bigger[0][:, :, :start], bigger[1][:, :, :start] = self.keys, self.values
            self._buffers = bigger
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self._buffers is not None:
            length = self.get_seq_length()
            self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
            self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def padded_left(parts: Sequence[torch.Tensor], dim: int) -> list[torch.Tensor]:
    """`parts` with zeros before them, so that all are equally long in `dim`."""
    longest = max(part.shape[dim] for part in parts)
    return [pad(part, (0, 0) * (part.ndim - 1 - dim) + (longest - part.shape[dim], 0)) for part in parts]


def joined(caches: Sequence[Cache], order: torch.Tensor) -> Cache:
    """One cache of the rows of `caches`, right-aligned, its row r the row `order[r]` of all of them."""
    layers = []
    for number in range(len(caches[0].layers)):
        some = [cache.layers[number] for cache in caches]
        keys, values = ([getattr(layer, side) for layer in some] for side in ("keys", "values"))
        layers.append(GrowingLayer(*(torch.cat(padded_left(states, dim=2))[order] for states in (keys, values))))
        for cache in caches:  # the layers that are joined are freed one by one
            cache.layers[number] = None
    return Cache(layers=layers)


@dataclass(frozen=True)
class _Prefix:
    """Tokens of one prompt with their keys and values, a pair of [heads, tokens, head_dim] per layer."""

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


Found = tuple[_Prefix | None, int]
"""A stored prompt, and how many of its first tokens can be reused."""


class PrefixStore:
    """Keys and values of the last prompt of each conversation, for one set of weights: `clear` after an update.

    A conversation is about one image, named by its key; games on one image reuse from each other.
    """

    def __init__(self) -> None:
        self._by_image: dict[str, dict[object, _Prefix]] = {}

    def clear(self) -> None:
        self._by_image.clear()

    def find(self, image_key: str, ids: list[int], image_token: int) -> Found:
        """The stored prompt about this image that has most of `ids` in common: the prefix, but never all of `ids`.

        Nothing if the prefix ends before the end of the image, since an image is encoded as a whole.
        """
        best: Found = (None, 0)
        for known in self._by_image.get(image_key, {}).values():
            if known.ids[: best[1] + 1] != ids[: best[1] + 1]:
                continue  # it has no token more, and counting them is slow
            length = min(common_length(known.ids, ids), len(ids) - 1)
            if length > best[1]:
                best = (known, length)
        return (None, 0) if image_token in ids[best[1] :] else best

    def cache(self, found: Sequence[Found], n_layers: int) -> Cache:
        """Cache whose row r holds the reusable tokens of `found[r]`, right-aligned."""
        example = next((known for known, length in found if known and length), None)
        if example is None:
            return Cache(layers=[GrowingLayer() for _ in range(n_layers)])
        layers = []
        for number in range(n_layers):
            sides = ([(known or example).layers[number][k][:, :length] for known, length in found] for k in (0, 1))
            layers.append(GrowingLayer(*(torch.stack(padded_left(rows, dim=1)) for rows in sides)))
        return Cache(layers=layers)

    def remember(
        self,
        conversations: Sequence[tuple[str, object]],
        prompts: Sequence[list[int]],
        cache: Cache,
        mask: torch.Tensor,
    ) -> None:
        """Store each row's prompt by image key and conversation. `mask` [rows, cached tokens] is 1 at real tokens."""
        for row, ((image_key, conversation), ids) in enumerate(zip(conversations, prompts, strict=True)):
            real = mask[row].bool()
            layers = [(layer.keys[row][:, real], layer.values[row][:, real]) for layer in cache.layers]
            self._by_image.setdefault(image_key, {})[conversation] = _Prefix(ids, layers)
