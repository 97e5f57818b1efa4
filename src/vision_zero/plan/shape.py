"""The sizes of a vision-language model, and from them its parameters, FLOPs and bytes. Pure arithmetic, no torch.

A FLOP is one multiplication or one addition, so a matrix product costs 2 per weight and token. Norms, activations,
softmax and embedding look-ups are left out: they are below 1% and make floors lower, never higher.

Language models are read alike for all families; vision towers by families.yaml. What is in neither is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt, prod
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
FAMILIES: dict[str, Any] = yaml.safe_load((HERE / "families.yaml").read_text("utf-8"))
LANGUAGES = ("qwen2", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_vl", "qwen3_vl_moe", "gemma3", "llama")
Config = Mapping[str, Any]


@dataclass(frozen=True)
class VisionShape:
    """A tower of `depth` blocks and the matrices (in, out) of the projector behind it, on merged patches.

    A patch has `inputs` numbers; `small` counts biases, norms and tables. Images have their own size, or become squares
    of `square` pixels. Blocks see an image whole, or but for `full_blocks` in windows of `window` pixels.
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
    outputs: int = 1  # features of an image token: with Qwen3-VL's deepstack several

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
        height, width = (self.square or height), (self.square or width)
        return max(1, round(height / unit)) * self.merge, max(1, round(width / unit)) * self.merge

    def image_tokens(self, width: int, height: int) -> int:
        return prod(self.grid(width, height)) // self.merge**2

    def forward_flops(self, width: int, height: int) -> int:
        """One image through the encoder. Windowed blocks look at windows of `window` pixels, cut off at the borders."""
        rows, columns = self.grid(width, height)
        patches = rows * columns
        matrices = 2 * patches * (self.patch_weights + self.depth * self.block_weights)
        projector = 2 * patches // self.merge**2 * self.projector_weights
        side = self.window // self.patch or max(rows, columns)
        windows = [a * b for a in _cut(rows, side) for b in _cut(columns, side)]
        in_windows = (self.depth - self.full_blocks) * sum(size**2 for size in windows)
        return matrices + projector + 4 * self.hidden * (self.full_blocks * patches**2 + in_windows)


def _cut(length: int, side: int) -> list[int]:
    whole, rest = divmod(length, side)
    return [side] * whole + [rest] * bool(rest)


@dataclass(frozen=True)
class ModelShape:
    """`norms` are those of a layer that are as wide as `hidden`; `experts` 0: no mixture of experts (MoE)."""

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
        moe = kind == "qwen3_vl_moe"
        unlike = moe and (text.get("mlp_only_layers") or text.get("decoder_sparse_step", 1) != 1)
        if kind not in LANGUAGES or unlike:
            raise ValueError(f"the plan does not know the language model {kind}{' with dense layers' * bool(unlike)}")
        return cls(
            vocab=text["vocab_size"],
            hidden=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_size=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            intermediate=text["moe_intermediate_size" if moe else "intermediate_size"],
            tied=config["tie_word_embeddings"],
            vision=_tower(config, text["hidden_size"]),
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
        """(in, out) of the matrices that a token meets in a layer: q, k, v, o, gate, up, down, an MoE's router."""
        h, q, kv, i = self.hidden, self.query_width, self.kv_width, self.intermediate
        mlp = [(h, i), (h, i), (i, h)] * (self.experts_per_token or 1)
        return [(h, q), (h, kv), (h, kv), (q, h), *mlp, *[(h, self.experts)] * bool(self.experts)]

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
        """LoRA of this rank on every matrix of every language layer (run_lora_1gpu.sh), of an MoE on attention."""
        return self.layers * sum(rank * (a + b) for a, b in self.layer_matrices[: 4 if self.experts else None])

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


def _tower(config: Config, text: int) -> VisionShape:
    """The vision tower by its row of families.yaml; `text` is the width of the language model."""
    row = FAMILIES.get(config["model_type"])
    if row is None:
        raise ValueError(f"the plan does not know the family {config['model_type']}")
    found = {**config, **config["vision_config"], "one": 1}

    def size(name: str) -> int:
        """Of a key, or a product of keys; of a pair of sides the first."""
        values = [found[next((k for k in part.split("|") if k in found), part)] for part in row[name].split("*")]
        return prod(value[0] if isinstance(value, list | tuple) else value for value in values)

    patch, h, depth, square = size("patch"), size("h"), size("depth"), "square" in row and size("square")
    places = size("places") if "places" in row else (square // patch) ** 2
    merge = size("merge") if "merge" in row else isqrt(places // size("tokens"))
    sizes = {"h": h, "i": size("i"), "text": text, "table": places * h, "wide": h * merge**2}
    sizes["out"] = size("out") if "out" in row else text
    projectors = 1 + len(found[row["deepstack"]] if "deepstack" in row else ())

    def count(counted: dict[str, int]) -> int:
        return sum(times * sizes[name] for name, times in counted.items())

    blocks = [row["block"]]
    for condition, more in row.get("if", {}).items():
        key, value = condition.split("=")
        blocks += [more] * (str(found[key]) == value)
    further = (projectors - 1) * (3 * sizes["wide"] + sizes["out"])
    return VisionShape(
        depth,
        h,
        sizes["i"],
        row.get("gated", False),
        patch,
        size("channels") * (size("frames") if "frames" in row else 1) * patch**2,
        merge,
        tuple((sizes[a], sizes[b]) for a, b in row["projector"]) * projectors,
        depth * sum(map(count, blocks)) + count(row["rest"]) + further,
        size("window") if "window" in row else 0,
        len(found.get("fullatt_block_indexes", ())) if "window" in row else 0,
        int(square),
        projectors,
    )


def read_shape(model: str | Config) -> ModelShape:
    """Sizes of a shipped model, a config.json or its folder, a model in the Hub's cache, or a parsed config.json.

    What the file leaves out are the defaults of transformers, which takes seconds to ask. Raises ValueError for a
    family that is not known and sizes that are none, FileNotFoundError for a model that is nowhere here.
    """
    try:
        config = read_config(model) if isinstance(model, str) else model
        try:
            shape = ModelShape.of(config)
        except KeyError:
            from transformers.models.auto.configuration_auto import CONFIG_MAPPING

            if (kind := config.get("model_type")) not in FAMILIES:
                raise ValueError(f"the plan does not know the family {kind}") from None
            shape = ModelShape.of(CONFIG_MAPPING[kind].from_dict(dict(config)).to_dict())
    except OSError:
        raise
    except Exception as error:  # whatever a file or transformers' classes make of it
        raise ValueError(f"model {model}: {' '.join(str(error).split())}") from error
    sizes = [*vars(shape).values(), shape.vision.patch, shape.vision.merge, shape.vision.depth]
    wrong = [size for size in sizes if isinstance(size, int | float) and not 0 <= size < 10**7]
    if wrong or not all(sizes[:7] + sizes[-3:]):
        raise ValueError(f"model {model}: its config.json has a size that no model has")
    return shape


def read_config(model: str) -> dict[str, Any]:
    """See `read_shape`."""
    path = HERE / "models" / f"{model.lower().removeprefix('qwen/').removesuffix('-instruct')}.json"
    if not path.is_file():
        path = Path(model, "config.json") if Path(model).is_dir() else Path(model)
        if Path(model).is_dir() and not path.is_file():
            raise FileNotFoundError(f"{model} has no config.json")
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache  # takes half a second

        cached = try_to_load_from_cache(model, "config.json") if model.find("/") == model.rfind("/") > 0 else None
        if not isinstance(cached, str):
            shipped = ", ".join(sorted(one.stem for one in (HERE / "models").glob("*.json")))
            raise FileNotFoundError(f"{model} is no folder, config.json or model of the cache; shipped: {shipped}")
        path = Path(cached)
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return config
