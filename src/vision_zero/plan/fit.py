"""A setup of training: GiB per GPU by phase and part, seconds of an iteration by part, and the nearest that fits.

A setup has the options of options.yaml; what is taken as given stands in assumed.yaml.
"""

from argparse import Namespace
from itertools import product
from math import ceil, isqrt, prod
from typing import Any

import yaml

from vision_zero.plan import cost
from vision_zero.plan.cost import GIB, Card, Mode, Tokens
from vision_zero.plan.shape import HERE, ModelShape

OPTIONS: dict[str, list[Any]] = yaml.safe_load((HERE / "options.yaml").read_text("utf-8"))
GIVEN: dict[str, Any] = yaml.safe_load((HERE / "assumed.yaml").read_text("utf-8"))
CHOICES = {"train": ("full", "lora", "qlora"), "zero": (0, 2, 3), "player": ("transformers", "vllm")}
Setup = Namespace
Phases = dict[str, dict[str, float]]


def setup(**changes: Any) -> Setup:
    """The defaults, but for `changes`."""
    return Setup(**{name: default for name, (default, *_) in OPTIONS.items()} | changes)


def check(s: Setup) -> None:
    """Raises ValueError for values that no setup has."""
    for name, (default, *_) in OPTIONS.items():
        value, least = vars(s)[name], int(name not in ("image_tokens", "zero"))
        if type(value) is not type(default) or (type(value) is int and value < least):
            raise ValueError(f"--{name} {value}: give one like {default}, numbers from {least}")
        if value not in CHOICES.get(name, (value,)):
            raise ValueError(f"--{name} {value}: give one of {', '.join(map(str, CHOICES[name]))}")
    if not 0 < s.vllm_share < 1 or s.mean_tokens > s.most_tokens:
        raise ValueError(f"--vllm_share {s.vllm_share} is a share, --mean_tokens {s.mean_tokens} at most --most_tokens")


def card_of(s: Setup) -> Card:
    card = cost.card_of(s.gpu)
    if card is None:
        raise ValueError(f"--gpu {s.gpu}: give 24, 48, 80, or one of {', '.join(cost.CARDS)}")
    return card


def mode_of(shape: ModelShape, s: Setup) -> Mode:
    """Raises ValueError for what cannot be trained."""
    if s.train == "full" and s.zero == 0:
        raise ValueError("all weights are trained with ZeRO 2 or 3 (configs/deepspeed): give --zero 2 or 3")
    if s.offload and s.zero != 3:
        raise ValueError("offload is of ZeRO-3: give --zero 3")
    if s.train == "qlora" and s.zero:
        raise ValueError("4-bit weights are not shared out: give --zero 0")
    if s.player == "vllm" and s.vllm_share * card_of(s).gib * GIB < 2 * shape.parameters:
        raise ValueError(f"--vllm_share {s.vllm_share} does not hold the engine's own weights")
    return "full" if s.train == "full" else "lora"


def image_of(shape: ModelShape, s: Setup) -> tuple[int, int, tuple[int, int]]:
    """Tokens of an image, pictures that the tower sees of it, and the size of one."""
    side = isqrt(s.max_pixels)
    one = shape.vision.image_tokens(side, side)
    if s.image_tokens and not shape.vision.square:
        side = isqrt(s.image_tokens) * shape.vision.patch * shape.vision.merge
    return s.image_tokens or one, ceil((s.image_tokens or one) / one) if shape.vision.square else 1, (side, side)


def prompts_of(shape: ModelShape, s: Setup) -> list[int]:
    """Lengths of the prompts of a game: of every clue, and of the votes."""
    base = GIVEN["prompt"]["rules"] + GIVEN["prompt"]["instruction"] + image_of(shape, s)[0]
    return [base + GIVEN["prompt"]["clue"] * before for before in range((s.civilians + 1) * s.rounds + 1)]


def memory(shape: ModelShape, s: Setup) -> Phases:
    """GiB of a GPU by phase and part; what is assumed says so."""
    mode, n, tower = mode_of(shape, s), shape.parameters, shape.vision
    games, (image, pictures, size), prompt = ceil(s.games / s.gpus), image_of(shape, s), prompts_of(shape, s)[-1]
    patches, full, vllm = prod(tower.grid(*size)) * pictures, mode == "full", s.player == "vllm"
    here = 0 if s.offload else 1
    sharded, state = (here / s.gpus if s.zero >= stage else here for stage in (3, 2))
    trained = n if full else shape.adapter_parameters(s.rank)
    quantized = shape.layers * sum(a * b for a, b in shape.layer_matrices[: 4 if shape.experts else None])
    weights = 2 * n - (2 - GIVEN["nf4"]) * quantized * (s.train == "qlora")
    kept = {
        "weights": weights * sharded,
        "adapters": 0 if full else 4 * trained * sharded,
        "optimizer": (12 if full else 8) * trained * state,  # AdamW in float32, and for all weights their masters
        "reference": 2 * n * sharded * full,
        "image features": 4 * games * image * shape.hidden * shape.vision.outputs,
    }
    gradients = (2 if full else 4) * trained * state
    rows = min(s.rollout_batch, games * s.votes)
    prefilled = min(games, s.rollout_batch) * min(prompt, GIVEN["prompt_tokens"])
    encoded = min(2 * games, GIVEN["images_at_once"]) * patches * (6 * tower.intermediate + 14 * tower.hidden)
    cached = rows * (prompt + s.most_tokens + GIVEN["spare_tokens"]) + 2 * games * prompt
    whole = {"gathered weights": weights * (s.zero == 3)}  # beside the shards
    playing = {
        "keys and values": shape.kv_bytes() * cached,
        "activations": max(cost.forward_bytes(shape, prefilled, mode), encoded),
        "logits": GIVEN["logit"] * rows * shape.vocab,
    }
    scored = s.micro_batch * s.most_tokens
    groups = ceil(s.micro_batch / s.votes) + 1  # prompts in a micro-batch: of each game, or of each view
    tokens = groups * prompt + scored
    activations, logits = cost.activation_bytes(shape, tokens, scored, mode, pairs=tokens**2)
    activations += groups * patches * tower.depth * tower.hidden * 2 * full  # inputs of the tower's blocks
    at_once = max(GIVEN["logprob_tokens"], prompt + s.most_tokens)
    phases = {
        "rollout": {} if vllm else whole | playing,
        "scoring": {
            "activations": cost.forward_bytes(shape, at_once, mode) + 2 * tokens**2,
            "logits": cost.head_bytes(shape, at_once, "lora"),
        },
        "update": {"gradients": gradients, "activations": activations, "logits": logits},
    }
    if full:
        most = GIVEN["most_gathered"] if s.zero == 3 else trained
        phases["step"] = {"gradients": gradients, "in float32": 4 * min(most, trained * state)}
        if s.arena:
            phases["arena"] = whole | playing | {"gathered reference": 2 * n * (s.zero == 3)}
    there = {"CUDA context": True, "NCCL": s.gpus > 1, "ZeRO's buffers": s.zero > 0}
    fixed = {f"{name} (assumed)": GIVEN["gib"][name] for name in there if there[name]}
    fixed |= {"vLLM's share": s.vllm_share * card_of(s).gib} if vllm else {}
    found: Phases = {}
    for name, own in phases.items():
        gib = {part: count / GIB for part, count in (kept | own).items() if count}
        found[name] = gib | {"fragmentation (assumed)": GIVEN["fragmentation"] * sum(gib.values())} | fixed
    return found


def peak(phases: Phases) -> tuple[str, float]:
    """The phase that needs most, and its GiB."""
    return max(((name, sum(parts.values())) for name, parts in phases.items()), key=lambda one: one[1])


def seconds(shape: ModelShape, s: Setup, *, vote_tokens: int = 0) -> dict[str, float]:
    """Floors of an iteration by part, the mean of a decision and a clue iteration. `vote_tokens`: 0, as of a clue."""
    mode, card, games, prompts = mode_of(shape, s), card_of(s), ceil(s.games / s.gpus), prompts_of(shape, s)
    image, pictures, size = image_of(shape, s)
    images, vllm = 2 * games * pictures, s.player == "vllm"
    adapters = 4 * shape.adapter_parameters(s.rank) if mode == "lora" else 0
    clues = [[Tokens(prompt, s.mean_tokens)] * games for prompt in prompts[:-1]]
    votes = [Tokens(prompts[-1], vote_tokens or s.mean_tokens)] * (games * s.votes)
    width = len(votes) if vllm else s.rollout_batch
    batches = [call[k : k + width] for call in [*clues, votes] for k in range(0, len(call), width)]
    turn = GIVEN["prompt"]["instruction"] + GIVEN["prompt"]["clue"]
    computed = games * (2 * (GIVEN["prompt"]["rules"] + image) + len(prompts) * turn)
    stages = {"decision": votes, "clue": [row for call in clues for row in call]}
    scored = update = 0.0
    for stage, rows in stages.items():
        shared = GIVEN["shared"][stage]
        scored += cost.forward_flops(shape, rows, images, size, shared) / 2
        update += cost.update_flops(shape, rows, images, size, mode, s.rank, shared) / 2
    steps = ceil(sum(map(len, stages.values())) / 2 / s.micro_batch)
    whole, passes = 2 * shape.parameters, 3 * steps + 3  # ZeRO-3: forward, again, backward; scoring twice, the player
    sent = passes * whole if s.zero == 3 else steps * whole if mode == "full" else adapters
    exchange = sent * (1 - 1 / s.gpus) / card.link + 2 * whole / card.bandwidth * vllm
    return {
        f"decode ({s.player})": cost.decode_seconds(shape, batches, card, adapter_bytes=adapters),
        "prefill": cost.prefill_flops(shape, computed, sum(prompts) / len(prompts), images, size) / card.flops,
        "scoring": scored / card.flops * (1 + vllm),
        "update": update / card.flops,
        "exchange": exchange + (passes + 2) * whole / s.gpus / GIVEN["host"] * s.offload,
    }


def about(floors: dict[str, float]) -> tuple[float, float]:
    """Seconds at the best and at the worst of the assumed efficiencies."""
    worst, best = (sum(floor / GIVEN["efficiency"][part][k] for part, floor in floors.items()) for k in (0, 1))
    return best, worst


def nearest(shape: ModelShape, s: Setup, kept: tuple[str, ...] = ()) -> Setup | None:
    """The setup with the least changes that fits, `s` itself if it does, None if none does; options in `kept` stay.

    Changes by what they cost a user: smaller batches, ZeRO-3, no arena, fewer pixels, LoRA, more GPUs, QLoRA, offload.
    """
    batches = {"micro_batch": 1, "rollout_batch": 8}
    levers: dict[str, list[tuple[int, Any]]] = {
        name: [(k, vars(s)[name] >> k) for k in range(9) if k == 0 or vars(s)[name] >> k >= least]
        for name, least in batches.items()
    } | {
        "zero": [(0, s.zero), (1, 3), (1, 0)],
        "arena": [(0, s.arena), (2, False)],
        "max_pixels": [(0, s.max_pixels), *[(2, 76800)] * (s.max_pixels > 76800)],
        "train": [(0, s.train), *[(4, "lora")] * (s.train == "full"), (8, "qlora")],
        "gpus": [(0, s.gpus), *((6 * k, s.gpus << k) for k in (1, 2, 3) if s.gpus << k <= 8)],
        "offload": [(0, s.offload), (9, True)],
    }
    choices = product(*(options[: 1 if name in kept else None] for name, options in levers.items()))
    for choice in sorted(choices, key=lambda one: sum(price for price, _ in one)):
        other = Setup(**vars(s) | {name: value for name, (_, value) in zip(levers, choice, strict=True)})
        try:
            if peak(memory(shape, other))[1] <= card_of(s).gib:
                return other
        except ValueError:  # of `mode_of`
            continue
    return None
