"""The table of docs/hardware.md, by `python -m vision_zero.plan`'s arithmetic: python benchmarks/hardware_table.py

It renews the page; README's cells are among its.
"""

from __future__ import annotations

from pathlib import Path

from vision_zero.plan.fit import Setup, about, memory, nearest, peak, seconds, setup
from vision_zero.plan.shape import ModelShape, read_shape

PAGE = Path(__file__).resolve().parent.parent / "docs" / "hardware.md"
WORDS = {"arena": "no arena", "zero": "ZeRO-3", "offload": "offload"}
MODELS = ("qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen3-vl-8b", "internvl3-14b", "qwen2.5-vl-32b")
MACHINES = ((1, "24"), (1, "48"), (1, "80"), (4, "80"), (8, "80"))


def table() -> str:
    """Markdown: each model and way to train on each machine, with 128 games an iteration, on one GPU 32."""
    heads = [f"{gpus} × {gb} GB" for gpus, gb in MACHINES]
    lines = ["| model | | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 2)]
    for model in MODELS:
        shape = read_shape(model)
        for train, zero in (("full", 3), ("lora", 0), ("qlora", 0)):
            cells = [
                _cell(shape, setup(model=model, train=train, gpus=n, gpu=gb, games=32 if n == 1 else 128, zero=zero))
                for n, gb in MACHINES
            ]
            title = f"{model}, {shape.parameters / 1e9:.1f} B" if train == "full" else ""
            lines.append(f"| {title} | {train} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(shape: ModelShape, wanted: Setup) -> str:
    found = nearest(shape, wanted, kept=("train", "gpus"))
    if found is None:
        return "–"
    floors = seconds(shape, found)
    hours = [100 * one / 3600 for one in (sum(floors.values()), *about(floors))]
    least, best, worst = (f"{one:.1f}" if one < 10 else f"{one:.0f}" for one in hours)
    asked = [word for name, word in WORDS.items() if vars(found)[name] != vars(wanted)[name]]
    asked = [f"{found.micro_batch}/{found.rollout_batch}", *asked]
    return f"{peak(memory(shape, found))[1]:.0f} GiB; {least}, {best} to {worst} h; {', '.join(asked)}"


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    start = page.index("| model | |")
    PAGE.write_text(page[:start] + table() + page[page.index("\n\n", start) :], "utf-8")
