"""What goes with what: the table of docs/training.md is made of these tests: python -m tests.test_support_matrix.

Every pair of two values has a test that runs them together, a test of its refusal, or says that it is not tested.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "training.md"
AXES = {
    "weights": ("all", "LoRA", "QLoRA"),
    "player": ("transformers", "vLLM colocated", "vLLM servers"),
    "processes": ("1", "DDP", "ZeRO-2", "ZeRO-3", "FSDP2", "nodes"),
    "at the table": ("past players",),
}
FAMILIES, DISTRIBUTED = "trainer/test_families.py", "trainer/test_distributed.py"
EVERY_KIND = f"{DISTRIBUTED}::test_every_kind_trains_like_one_process"
LORA_KINDS = f"{DISTRIBUTED}::test_lora_trains_like_one_process"
PAST, QLORA = "trainer/test_past_players.py", "trainer/test_qlora.py"
VLLM_RUNS, SERVER = "trainer/test_vllm_runs.py", "rollout/vllm/test_server.py"
SEVERAL = "rollout/vllm/test_several_servers.py"
SENT = f"{SEVERAL}::test_servers_have_the_weights_that_train"
NODES, FSDP = "test_nodes.py", "trainer/test_fsdp.py"
YES = {
    ("all", "transformers"): f"{FAMILIES}::test_gradient_is_the_one_by_hand",
    ("all", "vLLM colocated"): "trainer/test_vllm.py::test_engine_and_training_agree_at_every_step",
    ("all", "vLLM servers"): f"{SEVERAL}::test_a_run_goes_on_when_a_server_is_killed",
    ("all", "1"): f"{FAMILIES}::test_a_run_through_both_stages_moves_every_parameter_and_is_saved",
    ("all", "DDP"): EVERY_KIND,
    ("all", "ZeRO-2"): EVERY_KIND,
    ("all", "ZeRO-3"): EVERY_KIND,
    ("all", "FSDP2"): EVERY_KIND,
    ("all", "nodes"): f"{NODES}::test_two_nodes_play_the_games_of_one_process",
    ("all", "past players"): f"{PAST}::test_the_start_is_played_as_it_was_and_does_not_move",
    ("LoRA", "transformers"): f"{FAMILIES}::test_lora_adapts_the_language_model_alone_and_is_merged",
    ("LoRA", "vLLM colocated"): f"{VLLM_RUNS}::test_lora_is_merged_for_the_engine",
    ("LoRA", "vLLM servers"): f"{SERVER}::test_lora_leaves_its_base_as_it_was_published",
    ("LoRA", "1"): f"{FAMILIES}::test_lora_adapts_the_language_model_alone_and_is_merged",
    ("LoRA", "DDP"): LORA_KINDS,
    ("LoRA", "ZeRO-2"): LORA_KINDS,
    ("LoRA", "ZeRO-3"): LORA_KINDS,
    ("LoRA", "FSDP2"): LORA_KINDS,
    ("LoRA", "past players"): f"{PAST}::test_the_start_is_played_as_it_was_and_does_not_move",
    ("QLoRA", "transformers"): f"{QLORA}::test_gradient_is_the_one_by_hand",
    ("QLoRA", "vLLM colocated"): f"{VLLM_RUNS}::test_lora_is_merged_for_the_engine",
    ("QLoRA", "vLLM servers"): SENT,
    ("QLoRA", "1"): f"{QLORA}::test_a_run_by_its_options",
    ("QLoRA", "DDP"): LORA_KINDS,
    ("QLoRA", "past players"): LORA_KINDS,
    ("transformers", "1"): f"{FAMILIES}::test_logprobs_of_sampling_are_those_of_a_plain_forward",
    ("transformers", "DDP"): EVERY_KIND,
    ("transformers", "ZeRO-2"): EVERY_KIND,
    ("transformers", "ZeRO-3"): EVERY_KIND,
    ("transformers", "FSDP2"): EVERY_KIND,
    ("transformers", "nodes"): f"{NODES}::test_two_nodes_play_the_games_of_one_process",
    ("transformers", "past players"): f"{PAST}::test_the_start_is_played_as_it_was_and_does_not_move",
    ("vLLM colocated", "1"): "trainer/test_vllm.py::test_after_training_games_are_still_those_of_transformers",
    ("vLLM colocated", "DDP"): f"{VLLM_RUNS}::test_two_processes_play_the_games_of_one",
    ("vLLM colocated", "ZeRO-2"): f"{VLLM_RUNS}::test_zero_gives_its_weights_to_the_engine",
    ("vLLM colocated", "ZeRO-3"): f"{VLLM_RUNS}::test_zero_gives_its_weights_to_the_engine",
    ("vLLM colocated", "FSDP2"): f"{VLLM_RUNS}::test_fsdp_gathers_its_weights_for_the_engine",
    ("vLLM colocated", "past players"): f"{PAST}::test_an_engine_plays_beside_a_past_player",
    ("vLLM servers", "1"): f"{SEVERAL}::test_two_servers_play_the_games_of_one",
    ("vLLM servers", "DDP"): f"{SEVERAL}::test_processes_go_on_together_without_a_server_that_stands_still",
    ("vLLM servers", "ZeRO-2"): SENT,
    ("vLLM servers", "ZeRO-3"): SENT,
    ("vLLM servers", "past players"): SENT,
    ("past players", "1"): f"{PAST}::test_resumed_it_is_the_same_run",
    ("past players", "DDP"): f"{PAST}::test_two_processes_play_the_games_of_one",
    ("past players", "ZeRO-2"): LORA_KINDS,
    ("past players", "ZeRO-3"): f"{PAST}::test_split_weights_play_the_games_of_one_process",
    ("past players", "FSDP2"): f"{FSDP}::test_a_reference_and_past_players_are_split_too",
}
REFUSED = {
    ("QLoRA", "ZeRO-2"): f"{QLORA}::test_it_is_of_adapters_without_zero",
    ("QLoRA", "ZeRO-3"): f"{QLORA}::test_it_is_of_adapters_without_zero",
    ("QLoRA", "FSDP2"): f"{QLORA}::test_it_is_of_adapters_without_zero",
    ("vLLM servers", "FSDP2"): f"{FSDP}::test_what_does_not_go_with_it_is_refused",
}
SAME = {"nodes": "DDP"}
"""What a node does is what its processes do: a pair with nodes that has no test of its own is that of DDP."""


def cell(one: str, other: str) -> str:
    pair = next((pair for pair in ((one, other), (other, one)) if pair in YES or pair in REFUSED), None)
    if pair is not None:
        return "yes" if pair in YES else "refused"
    if "nodes" in (one, other):
        rest = cell(SAME["nodes"], other if one == "nodes" else one)
        return "as DDP" if rest == "yes" else rest
    return "not tested"


def table() -> str:
    """Rows are all values but the last axis's first, columns those of the axes behind: each pair stands once."""
    columns = [value for axis in list(AXES)[1:] for value in AXES[axis]]
    lines = ["| together | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    axis_of = {value: place for place, values in enumerate(AXES.values()) for value in values}
    for row in [value for axis in list(AXES)[:-1] for value in AXES[axis]]:
        cells = [cell(row, column) if axis_of[row] < axis_of[column] else "" for column in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_page_has_the_table() -> None:
    assert table() in PAGE.read_text("utf-8"), "python -m tests.test_support_matrix"


def test_pairs_are_of_two_axes() -> None:
    pairs = {frozenset(pair) for a, b in combinations(AXES.values(), 2) for pair in ((x, y) for x in a for y in b)}
    said = [frozenset(pair) for pair in (*YES, *REFUSED)]
    assert len(said) == len(set(said))
    assert set(said) <= pairs
    assert table().count("not tested") == 0  # whoever tests one of them says so here


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("named", sorted({*YES.values(), *REFUSED.values()}))
def test_a_test_that_is_named_is_there(named: str) -> None:
    file, name = named.split("::")
    assert name in functions_of(file)


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    PAGE.write_text(re.sub(r"\| together \|.*?\n\n", lambda _: table() + "\n\n", page, flags=re.DOTALL), "utf-8")
