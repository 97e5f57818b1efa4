"""The checks in the order of their worth, and how long each may take on one H100. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu import floors
from benchmarks.gpu.model_shape import ModelShape


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
            ("full, AdamW in bfloat16", floors.training_bytes(shape, "full")),
            ("full, AdamW and masters in float32", floors.training_bytes(shape, "full", float32_masters=True)),
            (f"lora, rank {rank}", floors.training_bytes(shape, "lora", rank=rank)),
        ):
            gib = {name: n / floors.GIB for name, n in parts.items() if n}
            needs.append(MemoryNeed(f"{model.upper()} {title}", gib))
    return needs
