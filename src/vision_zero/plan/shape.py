"""The sizes of a vision-language model, and from them its parameters, FLOPs and bytes. Pure arithmetic, no torch.

A FLOP is one multiplication or one addition, so a matrix product costs 2 per weight and token. Norms, activations,
softmax and embedding look-ups are left out: they are below 1% and make floors lower, never higher.

Sizes of the language model are read alike for all families. What differs, the names and small parts of the vision
tower, is `_vision`, a branch a family; a family that is not there is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "models"
Config = Mapping[str, Any]


@dataclass(frozen=True)
class VisionShape:
    """A tower of `depth` blocks and the projector behind it.

    `inputs` are the numbers in a patch; `projector` has (in, out) of the matrices that a merged patch goes through, and
    `small` counts biases, norms and tables. Towers of a fixed size see squares of `square` pixels, others an image in
    its own size, in windows of `window` pixels but for `full_blocks`.
    """

    depth: int
    hidden: int
    intermediate: int
    gated: bool
    patch: int
    inputs: int
    merge: int
    projector: tuple[tuple[int, int], ...]
    small: int
    window: int = 0
    full_blocks: int = 0
    square: int = 0

    @property
    def patch_weights(self) -> int:
        return self.hidden * self.inputs

    @property
    def block_weights(self) -> int:
        """Matrices of one block: qkv, proj, and the two or three of the MLP."""
        return 4 * self.hidden**2 + (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def projector_weights(self) -> int:
        return sum(a * b for a, b in self.projector)

    @property
    def parameters(self) -> int:
        return self.patch_weights + self.depth * self.block_weights + self.projector_weights + self.small

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Patches (down, across) of an image, resized to whole merged patches as the processor does in its bounds."""
        unit = self.patch * self.merge
        if self.square:
            return (self.square // unit * self.merge,) * 2
        return max(1, round(height / unit)) * self.merge, max(1, round(width / unit)) * self.merge

    def image_tokens(self, width: int, height: int) -> int:
        rows, columns = self.grid(width, height)
        return rows * columns // self.merge**2

    def forward_flops(self, width: int, height: int) -> int:
        """One image through the encoder. Windowed blocks look at windows of `window` pixels, cut off at the borders."""
        rows, columns = self.grid(width, height)
        patches = rows * columns
        matrices = 2 * patches * (self.patch_weights + self.depth * self.block_weights)
        projector = 2 * patches // self.merge**2 * self.projector_weights
        full_blocks, in_windows = self.full_blocks if self.window else self.depth, 0
        if self.window:
            side = self.window // self.patch
            windows = [a * b for a in _cut(rows, side) for b in _cut(columns, side)]
            in_windows = (self.depth - self.full_blocks) * sum(size**2 for size in windows)
        return matrices + projector + 4 * self.hidden * (full_blocks * patches**2 + in_windows)


def _cut(length: int, side: int) -> list[int]:
    whole, rest = divmod(length, side)
    return [side] * whole + [rest] * bool(rest)


@dataclass(frozen=True)
class ModelShape:
    """`norms` are the norms of a layer as wide as `hidden`; `experts` 0: no mixture of experts (MoE)."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    tied: bool
    vision: VisionShape
    qkv_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    experts: int = 0
    experts_per_token: int = 0

    @classmethod
    def of(cls, config: Config) -> ModelShape:
        """From a config.json, flat as of the first releases or with a text_config.

        Raises KeyError for a size that it leaves out, ValueError for a family that is not known.
        """
        text = config.get("text_config", config)
        kind = text.get("model_type", config["model_type"]).removesuffix("_text")
        if kind not in ("qwen2", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_vl", "qwen3_vl_moe", "gemma3", "llama"):
            raise ValueError(f"the plan does not know the language model {kind}")
        moe = kind == "qwen3_vl_moe"
        if moe and (text.get("mlp_only_layers") or text.get("decoder_sparse_step", 1) != 1):
            raise ValueError("the plan does not know a mixture of experts with dense layers")
        return cls(
            vocab=text["vocab_size"],
            hidden=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_size=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            intermediate=text["moe_intermediate_size" if moe else "intermediate_size"],
            tied=config["tie_word_embeddings"],
            vision=_vision(config, text["hidden_size"]),
            qkv_bias=kind.startswith("qwen2"),
            qk_norm=kind.startswith(("qwen3", "gemma3")),
            norms=4 if kind == "gemma3" else 2,
            experts=(text.get("num_experts") or text["num_local_experts"]) if moe else 0,
            experts_per_token=text["num_experts_per_tok"] if moe else 0,
        )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values, of one token and layer."""
        return self.kv_heads * self.head_size

    @property
    def layer_matrices(self) -> list[tuple[int, int]]:
        """(in, out) of the matrices that a token is multiplied with in one layer: q, k, v, o, and gate, up, down."""
        h, q, kv, i = self.hidden, self.query_width, self.kv_width, self.intermediate
        mlp = [(h, i), (h, i), (i, h)] * (self.experts_per_token or 1)
        return [(h, q), (h, kv), (h, kv), (q, h), *mlp, *([(h, self.experts)] if self.experts else [])]

    @property
    def layer_weights(self) -> int:
        return sum(a * b for a, b in self.layer_matrices)

    @property
    def head_weights(self) -> int:
        return self.vocab * self.hidden

    @property
    def language_parameters(self) -> int:
        small = self.norms * self.hidden + self.qk_norm * 2 * self.head_size
        small += self.qkv_bias * (self.query_width + 2 * self.kv_width)
        idle = 3 * self.hidden * self.intermediate * (self.experts - self.experts_per_token)
        layers = self.layers * (self.layer_weights + idle + small)
        return layers + self.hidden + self.head_weights * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.language_parameters + self.vision.parameters

    def adapter_parameters(self, rank: int) -> int:
        """LoRA of this rank on every matrix of every language layer (run_lora_1gpu.sh), of experts on attention."""
        matrices = self.layer_matrices[: 4 if self.experts else None]
        return self.layers * sum(rank * (a + b) for a, b in matrices)

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
        return matrices + 4 * self.layers * self.query_width * context

    def attention_flops(self, length: int) -> int:
        """Attention of a whole causal sequence: token t looks at t tokens."""
        return 2 * self.layers * self.query_width * length * (length + 1)


def _vision(config: Config, text_hidden: int) -> VisionShape:
    """The vision tower and projector of a family; `small` has, in order, table and bias of the patches, blocks, rest."""
    family, seen = config["model_type"], config["vision_config"]
    patch, h = seen["patch_size"], seen.get("embed_dim") or seen["hidden_size"]
    patch = patch if isinstance(patch, int) else patch[0]
    if family.startswith("qwen"):
        merge, depth = seen["spatial_merge_size"], seen["depth"]
        channels = seen["in_channels"] if "in_channels" in seen else seen["in_chans"]
        inputs, wide = channels * seen["temporal_patch_size"] * patch**2, h * merge**2
        own = {"depth": depth, "hidden": h, "patch": patch, "inputs": inputs, "merge": merge}
        if family == "qwen2_5_vl":
            i, out = seen["intermediate_size"], seen["out_hidden_size"]
            small = depth * (6 * h + 2 * i + h) + h + wide + out
            window, full = seen["window_size"], len(seen["fullatt_block_indexes"])
            merger = ((wide, wide), (wide, out))
            return VisionShape(
                **own, intermediate=i, gated=True, projector=merger, small=small, window=window, full_blocks=full
            )
        if family == "qwen2_vl":
            i, out = h * seen["mlp_ratio"], seen["hidden_size"]
            merger, first, norm_widths = ((wide, wide), (wide, out)), 0, 2 * h
        elif family in ("qwen3_vl", "qwen3_vl_moe"):
            i, out, extra = seen["intermediate_size"], seen["out_hidden_size"], len(seen["deepstack_visual_indexes"])
            merger, first = ((wide, wide), (wide, out)) * (1 + extra), h + seen["num_position_embeddings"] * h
            norm_widths = 2 * h + extra * 2 * wide
        else:
            raise ValueError(f"the plan does not know the family {family}")
        small = first + depth * (9 * h + i) + norm_widths + sum(b for _, b in merger)
        return VisionShape(**own, intermediate=i, gated=False, projector=merger, small=small)

    depth, i, side = seen["num_hidden_layers"], seen["intermediate_size"], seen["image_size"]
    side = side if isinstance(side, int) else side[0]
    table = (side // patch) ** 2 * h + h
    small = table + depth * (9 * h + i) + 2 * h
    if family == "internvl":
        merge = round(1 / config["downsample_ratio"])
        wide = h * merge**2
        projector = ((wide, text_hidden), (text_hidden, text_hidden))
        small += 2 * h + depth * 2 * h - 2 * h * seen["use_mean_pooling"] + 2 * wide + 2 * text_hidden
        small -= 0 if seen["attention_bias"] else depth * 3 * h
        small += depth * 2 * h if seen["use_qk_norm"] else 0
        small -= depth * 2 * h if seen["norm_type"] == "rms_norm" else 0
    elif family == "gemma3":
        merge = side // patch // round(config["mm_tokens_per_image"] ** 0.5)
        projector, small = ((h, text_hidden),), small + h
    elif family == "smolvlm":
        merge = config["scale_factor"]
        projector = ((h * merge**2, text_hidden),)
    elif family == "llava_onevision":
        merge, projector = 1, ((h, text_hidden), (text_hidden, text_hidden))
        small += 2 * text_hidden + text_hidden
    else:
        raise ValueError(f"the plan does not know the family {family}")
    return VisionShape(
        depth, h, i, False, patch, seen["num_channels"] * patch**2, merge, projector, small, square=side
    )


def read_config(model: str) -> dict[str, Any]:
    """The config.json of a shipped shape, a file, a folder, or a model in the Hub's cache.

    Raises FileNotFoundError for a model that is nowhere here.
    """
    path = Path(model)
    if (shipped := SHIPPED / f"{model.lower().removeprefix('qwen/').removesuffix('-instruct')}.json").is_file():
        path = shipped
    elif path.is_dir():
        path /= "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache  # takes half a second

        cached = try_to_load_from_cache(model, "config.json") if model.count("/") == 1 else None
        if not isinstance(cached, str):
            known = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.json")))
            raise FileNotFoundError(f"{model} is no folder, config.json or model of the cache; shipped: {known}")
        path = Path(cached)
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return config


def read_shape(config: Config) -> ModelShape:
    """`ModelShape.of`; sizes that the file leaves out are the defaults of transformers, which takes seconds to ask."""
    try:
        return ModelShape.of(config)
    except KeyError:
        from transformers import CONFIG_MAPPING

        kind = config.get("model_type")
        if kind not in CONFIG_MAPPING:
            raise ValueError(f"the plan does not know the family {kind}") from None
        whole = CONFIG_MAPPING[kind].from_dict(dict(config)).to_dict()
        try:
            return ModelShape.of(whole)
        except KeyError as error:
            raise ValueError(f"the plan does not know the family {kind}: its config has no {error}") from None
