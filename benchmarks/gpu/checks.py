"""The checks in the order of their worth, and how long each may take on one H100. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from vision_zero.plan.cost import GIB, Mode
from vision_zero.plan.shape import ModelShape


@dataclass(frozen=True)
class Check:
    """A check in its own process. It is not started with less than `least_s` left, and on a GPU stopped after `most_s`.

    `lines` is how many results it must leave. A check that is not `required` is a comparison: its failure is shown and
    does not fail the checklist.
    """

    name: str
    arguments: tuple[str, ...]
    least_s: int
    most_s: int
    lines: int
    required: bool = True

    @property
    def wants_vllm(self) -> bool:
        return "vllm" in self.arguments


def steps(model: str, mode: str, policy: str, least_s: int, most_s: int) -> Check:
    arguments = ("--kind", "steps", "--model", model, "--mode", mode, "--policy", policy)
    name = f"{model.upper()} {mode}" + (" vLLM" if policy == "vllm" else "")
    return Check(name, arguments, least_s, most_s, lines=2)


def text(model: str) -> Check:
    arguments = ("--kind", "text", "--model", model)
    return Check(f"{model.upper()} generate_batch", arguments, least_s=30, most_s=90, lines=1, required=False)


PLAN = (
    Check("machine", ("--kind", "machine"), least_s=5, most_s=60, lines=1),
    steps("3b", "full", "transformers", least_s=45, most_s=180),
    steps("7b", "lora", "transformers", least_s=60, most_s=200),
    steps("3b", "lora", "transformers", least_s=60, most_s=200),
    steps("3b", "lora", "vllm", least_s=60, most_s=200),
    text("3b"),
    steps("7b", "lora", "vllm", least_s=60, most_s=200),
    text("7b"),
)


def training_bytes(
    shape: ModelShape, mode: Mode, *, rank: int = 0, float32_masters: bool = False, reference: bool = True
) -> dict[str, int]:
    """Bytes in memory between two steps and during an update, without activations.

    full  bfloat16 weights, gradients and two AdamW moments; with `float32_masters` (DeepSpeed) the moments and a copy
          of the weights are float32; a frozen reference model in bfloat16
    lora  bfloat16 weights, float32 adapters with gradients and moments; the reference is the model without adapters
    """
    n = shape.parameters
    if mode == "lora":
        adapters = shape.adapter_parameters(rank)
        return {"weights": 2 * n, "adapters": 4 * adapters, "gradients": 4 * adapters, "optimizer": 8 * adapters}
    return {
        "weights": 2 * n,
        "gradients": 2 * n,
        "optimizer": 12 * n if float32_masters else 4 * n,
        "reference": 2 * n if reference else 0,
    }


@dataclass(frozen=True)
class MemoryNeed:
    """GiB of a training state without activations, by arithmetic."""

    name: str
    parts: dict[str, float]

    @property
    def gib(self) -> float:
        return sum(self.parts.values())

    def verdict(self, card_gib: float | None) -> str:
        if card_gib is None:
            return f"needs {self.gib:.0f} GiB and activations"
        fits = "leaves" if self.gib < card_gib else "does not fit: lacks"
        return f"needs {self.gib:.0f} GiB, {fits} {abs(card_gib - self.gib):.0f} GiB for activations"


def memory_needs(shapes: dict[str, ModelShape], rank: int) -> list[MemoryNeed]:
    """Every model and mode, what is run here and what is not."""
    needs = []
    for model, shape in shapes.items():
        for title, parts in (
            ("full, AdamW in bfloat16", training_bytes(shape, "full")),
            ("full, AdamW and masters in float32", training_bytes(shape, "full", float32_masters=True)),
            (f"lora, rank {rank}", training_bytes(shape, "lora", rank=rank)),
        ):
            gib = {name: n / GIB for name, n in parts.items() if n}
            needs.append(MemoryNeed(f"{model.upper()} {title}", gib))
    return needs
