"""The plan in words: a page, a line, the flags that make a setup fit, and the table of docs/hardware.md."""

from typing import Any

from vision_zero.plan.cost import GIB
from vision_zero.plan.fit import OPTIONS, Setup, about, card_of, memory, nearest, peak, seconds, setup
from vision_zero.plan.shape import ModelShape, read_shape

FLAGS = {
    "micro_batch": "--per_device_train_batch_size {}",
    "rollout_batch": "--rollout_batch_size {}",
    "max_pixels": "--max_pixels {}",
    "arena": "--arena_every 0",
    "gpus": "NUM_GPUS={}",
}


def named(s: Setup) -> str:
    how = {"full": "all weights", "lora": f"LoRA r={s.rank}", "qlora": f"QLoRA r={s.rank}"}[s.train]
    zero = f", ZeRO-{s.zero}{' with offload' * s.offload}" if s.zero else ""
    return f"{how} on {s.gpus} GPU{'s' * (s.gpus > 1)} of {s.gpu}{' GB' * s.gpu.isdigit()}{zero}, {s.player} plays"


def page(shape: ModelShape, s: Setup) -> str:
    phases, floors = memory(shape, s), seconds(shape, s)
    parts = list(dict.fromkeys(part for own in phases.values() for part in own))
    lines = [f"{s.model}: {shape.parameters / 1e9:.1f} B parameters, {named(s)}", "", f"{'GiB of a GPU':26}"]
    lines[-1] += "".join(f"{name:>10}" for name in phases)
    for part in parts:
        lines.append(f"{part:26}" + "".join(f"{own.get(part, 0):10.1f}" for own in phases.values()))
    lines.append(f"{'together':26}" + "".join(f"{sum(own.values()):10.1f}" for own in phases.values()))
    best, worst = about(floors)
    lines += ["", "seconds of an iteration, at least", *(f"{part:26}{floor:10.1f}" for part, floor in floors.items())]
    lines += [f"{'together':26}{sum(floors.values()):10.1f}, about {best:.0f} to {worst:.0f}", "", verdict(shape, s)]
    return "\n".join(lines)


def verdict(shape: ModelShape, s: Setup) -> str:
    """Whether it fits, and if not what does, to paste."""
    phase, gib = peak(memory(shape, s))
    there = f"{gib:.1f} of {card_of(s).gib} GiB ({phase})"
    if gib <= card_of(s).gib:
        return f"fits: {there}"
    other = nearest(shape, s)
    return f"does not fit: {there}; " + (f"nearest that does: {flags(s, other)}" if other else "no setting here does")


def flags(s: Setup, other: Setup) -> str:
    """What changes from `s` to `other`, as options and variables of the scripts."""
    changed: dict[str, Any] = {name: value for name, value in vars(other).items() if value != vars(s)[name]}
    words = [FLAGS[name].format(value) for name, value in changed.items() if name in FLAGS]
    if changed.keys() & {"zero", "offload"}:
        files = {0: "none", 2: "configs/deepspeed/zero2.json", 3: "configs/deepspeed/zero3.json"}
        words.append(f"DEEPSPEED={'configs/deepspeed/zero3_offload.json' if other.offload else files[other.zero]}")
    if "train" in changed:
        words.append("run_scripts/run_lora_1gpu.sh" + " --load_in_4bit true" * (other.train == "qlora"))
    return " ".join(words)


def preset(shape: ModelShape, s: Setup) -> str:
    """Options of run_lora_1gpu.sh for the card, LoRA's if that fits, else QLoRA's. Raises ValueError if none does.

    vLLM plays where its engine fits beside training; the batches are those of a run without it.
    """
    found = nearest(shape, s, kept=("gpus", "zero", "offload"))
    if found is None:
        raise ValueError(f"{s.model} does not fit: {named(s)}; no batch does, nor with weights of 4 bits")
    engine = nearest(shape, Setup(**vars(found) | {"player": "vllm"}), kept=("micro_batch", "train", "gpus", "zero"))
    options = (FLAGS[name].format(vars(found)[name]) for name in ("micro_batch", "rollout_batch", "max_pixels"))
    four_bits = ["--load_in_4bit true"] * (found.train == "qlora")
    return " ".join([*options, *four_bits, *["--use_vllm false"] * (engine is None)])


def run_setup(model: Any, game: Any, args: Any, gpu: str | None, image_tokens: int = 0) -> Setup:
    """The setup of a run's options; `image_tokens` are those of its largest image, 0: by its pixels."""
    zero = args.hf_deepspeed_config.config.get("zero_optimization", {}) if args.deepspeed else {}
    return setup(
        model=model.model_name_or_path,
        train="qlora" if model.load_in_4bit else "lora" if model.use_peft else "full",
        gpu=gpu,
        zero=3 if args.fsdp else zero.get("stage", 0),
        offload=zero.get("offload_param", {}).get("device", "none") != "none",
        image_tokens=image_tokens,
        rank=model.lora_r,
        civilians=game.civilians,
        rounds=game.rounds,
        max_pixels=game.max_pixels or 12_845_056,  # Qwen's own bound
        player="vllm" if args.use_vllm and args.vllm_mode == "colocate" else "transformers",
        arena=bool(args.arena_every),
        **{name: getattr(args, option[0]) for name, (_, _, *option) in OPTIONS.items() if option},
    )


def line(s: Setup, weight_bytes: int = 4) -> str:
    """Of a run's start: what it needs of its GPU, named as its driver does, or on a CPU (None) of the machine.

    On a CPU weights are what `--dtype` says: `weight_bytes` each.
    """
    try:
        shape = read_shape(s.model)
        title = f"plan: {shape.parameters / 1e9:.3g} B parameters"
        if s.gpu is None:
            trained, copies = (shape.parameters, 2) if s.train == "full" else (shape.adapter_parameters(s.rank), 1)
            state = (weight_bytes * copies * shape.parameters + 12 * trained) / GIB
            return f"{title}; weights, gradients, optimizer and reference {state:.2g} GiB"
        parts = max(memory(shape, s).values(), key=lambda own: sum(own.values()))
        largest = sorted(parts.items(), key=lambda one: -one[1])[:4]
        said = ", ".join(f"{part} {gib:.1f}" for part, gib in largest)
        return f"{title}, {named(s)}: {verdict(shape, s)}; of it {said}"
    except (ValueError, OSError, LookupError) as error:
        return f"plan: no figures for {s.model}: {str(error).splitlines()[0]}"
