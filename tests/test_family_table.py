"""The table of families in docs/training.md is made of the lists of tests: python -m tests.test_family_table."""

from __future__ import annotations

import re
from pathlib import Path

from tests.rollout.vllm import test_colocate, test_served_adapters
from tests.trainer import test_distributed, test_families, test_frozen_vision, test_prefix_sharing, test_qlora

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
NAMES = {
    "qwen2-vl": "Qwen2-VL",
    "qwen2.5-vl": "Qwen2.5-VL",
    "qwen3-vl": "Qwen3-VL",
    "qwen3-vl-moe": "Qwen3-VL, experts",
    "internvl3 in tiles": "InternVL3, 3.5 (`-hf`)",
    "gemma3": "Gemma 3",
    "smolvlm2": "SmolVLM2",
    "llava-onevision": "LLaVA-OneVision",
    "glm-4.1v": "GLM-4.1V",
    "mistral3": "Mistral 3",
}
COLUMNS = {
    "both stages": dict.fromkeys(test_families.FAMILIES, "yes"),
    "LoRA": dict.fromkeys(test_families.FAMILIES, "yes"),
    "QLoRA": dict.fromkeys([*test_qlora.FAMILIES, *test_qlora.MORE_FAMILIES], "yes"),
    "`freeze_vision`": {
        **dict.fromkeys([*test_frozen_vision.FAMILIES, *test_frozen_vision.MORE_FAMILIES], "yes"),
        "mistral3": "refused",
    },
    "`share_prefixes`": {
        **dict.fromkeys([*test_prefix_sharing.FAMILIES, *test_prefix_sharing.MORE_FAMILIES], "yes"),
        "gemma3": "off, said",
        "mistral3": "off, said",
    },
    "save, resume, export": dict.fromkeys(test_families.FAMILIES, "yes"),
    "ZeRO-3, FSDP2": dict.fromkeys(test_distributed.ALL_FAMILIES, "yes"),
    "vLLM": dict.fromkeys(["qwen2.5-vl", "internvl3 in tiles", *test_colocate.MORE_FAMILIES], "yes"),
    "LoRA alone on a server": {
        **dict.fromkeys(["qwen2.5-vl", *test_served_adapters.FAMILIES], "yes"),
        "llava-onevision": "not in vLLM",
    },
}
"""Families by column; what is in none of the tests' lists is not tested."""


def table() -> str:
    lines = ["| family | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, title in NAMES.items():
        lines.append(f"| {title} | " + " | ".join(cells.get(name, "not tested") for cells in COLUMNS.values()) + " |")
    return "\n".join(lines)


def test_the_page_has_the_table_of_the_tests() -> None:
    assert {"internvl3", *NAMES} == set(test_families.FAMILIES)
    assert table() in PAGE.read_text("utf-8"), "python -m tests.test_family_table"


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    PAGE.write_text(re.sub(r"\| family \|.*?\n\n", lambda _: table() + "\n\n", page, flags=re.DOTALL), "utf-8")
