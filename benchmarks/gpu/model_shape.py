"""The sizes of a Qwen2.5-VL, and from them its parameters, FLOPs and bytes. Pure arithmetic, no torch.

A FLOP is one multiplication or one addition, so a matrix product costs 2 per weight and token. Norms, activations,
softmax and embedding look-ups are left out: they are below 1% and make floors lower, never higher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class VisionShape:
    depth: int
    hidden: int
    intermediate: int
    patch: int
    temporal_patch: int
    channels: int
    merge: int
    window: int
    full_blocks: int
    out_hidden: int

    @property
    def patch_weights(self) -> int:
        return self.hidden * self.channels * self.temporal_patch * self.patch**2

    @property
    def block_weights(self) -> int:
        """Matrices of one block: qkv, proj, and the three of the gated MLP."""
        return 4 * self.hidden**2 + 3 * self.hidden * self.intermediate

    @property
    def merger_weights(self) -> int:
        wide = self.hidden * self.merge**2
        return wide * wide + wide * self.out_hidden

    @property
    def parameters(self) -> int:
        biases_and_norms = 4 * self.hidden + 2 * self.intermediate + self.hidden + 2 * self.hidden
        merger_extras = self.hidden + self.hidden * self.merge**2 + self.out_hidden
        blocks = self.depth * (self.block_weights + biases_and_norms)
        return self.patch_weights + blocks + self.merger_weights + merger_extras

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Patches (down, across) of an image, resized to whole merged patches as the processor does in its bounds."""
        unit = self.patch * self.merge
        return round(height / unit) * self.merge, round(width / unit) * self.merge

    def image_tokens(self, width: int, height: int) -> int:
        rows, columns = self.grid(width, height)
        return rows * columns // self.merge**2

    def forward_flops(self, width: int, height: int) -> int:
        """One image through the encoder. Windowed blocks look at windows of `window` pixels, cut off at the borders."""
        rows, columns = self.grid(width, height)
        patches = rows * columns
        matrices = 2 * patches * (self.patch_weights + self.depth * self.block_weights)
        merger = 2 * patches // self.merge**2 * self.merger_weights
        side = self.window // self.patch
        windows = [a * b for a in _cut(rows, side) for b in _cut(columns, side)]
        in_windows = (self.depth - self.full_blocks) * sum(size**2 for size in windows)
        attention = 4 * self.hidden * (self.full_blocks * patches**2 + in_windows)
        return matrices + merger + attention


def _cut(length: int, side: int) -> list[int]:
    whole, rest = divmod(length, side)
    return [side] * whole + [rest] * bool(rest)


@dataclass(frozen=True)
class ModelShape:
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    tied: bool
    vision: VisionShape

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """From a config.json in the layout of the first release (flat, with a vision_config)."""
        seen = config["vision_config"]
        vision = VisionShape(
            depth=seen["depth"],
            hidden=seen["hidden_size"],
            intermediate=seen["intermediate_size"],
            patch=seen["patch_size"],
            temporal_patch=seen["temporal_patch_size"],
            channels=seen["in_chans"],
            merge=seen["spatial_merge_size"],
            window=seen["window_size"],
            full_blocks=len(seen["fullatt_block_indexes"]),
            out_hidden=seen["out_hidden_size"],
        )
        return cls(
            vocab=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            intermediate=config["intermediate_size"],
            tied=config["tie_word_embeddings"],
            vision=vision,
        )

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values, of one token and layer."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def layer_matrices(self) -> list[tuple[int, int]]:
        """(in, out) of the matrices of one layer: q, k, v, o, gate, up, down."""
        h, kv, i = self.hidden, self.kv_width, self.intermediate
        return [(h, h), (h, kv), (h, kv), (h, h), (h, i), (h, i), (i, h)]

    @property
    def layer_weights(self) -> int:
        return sum(a * b for a, b in self.layer_matrices)

    @property
    def head_weights(self) -> int:
        return self.vocab * self.hidden

    @property
    def language_parameters(self) -> int:
        biases_and_norms = self.hidden + 2 * self.kv_width + 2 * self.hidden
        layers = self.layers * (self.layer_weights + biases_and_norms)
        return layers + self.hidden + self.head_weights * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.language_parameters + self.vision.parameters

    def adapter_parameters(self, rank: int) -> int:
        """LoRA of this rank on every matrix of every language layer (run_lora_1gpu.sh)."""
        return self.layers * sum(rank * (a + b) for a, b in self.layer_matrices)

    @property
    def decode_weights(self) -> int:
        """Weights that must be read to make one token: the layers and the head; an embedding is one row."""
        return self.language_parameters - (0 if self.tied else self.head_weights)

    def kv_bytes(self, bytes_per_value: int = 2) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.kv_width * bytes_per_value

    def token_flops(self, context: int, *, head: bool) -> int:
        """One token through the layers, looking at `context` tokens (itself among them), with or without logits."""
        matrices = 2 * (self.layers * self.layer_weights + (self.head_weights if head else 0))
        return matrices + 4 * self.layers * self.hidden * context

    def attention_flops(self, length: int) -> int:
        """Attention of a whole causal sequence: token t looks at t tokens."""
        return 2 * self.layers * self.hidden * length * (length + 1)
