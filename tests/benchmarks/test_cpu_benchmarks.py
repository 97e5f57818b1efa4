"""The benchmarks on a CPU run to their end, and count what is needed as one counts by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from needed import forward_flops, shape_of, tree

from tests.process_helpers import run_program
from tests.trainer_helpers import BENCH_MODEL
from vision_zero.plan.shape import ModelShape

ROOT = Path(__file__).parents[2]
SMALL = ["--games", "1", "--votes", "4", "--tokens", "4", "--width", "56", "--height", "56"]


def figures(tmp_path: Path, *program: str) -> dict[str, float]:
    script = str(ROOT / "benchmarks" / program[0])
    finished = run_program([script, *program[1:], *SMALL], tmp_path / "log")
    assert finished.status == 0, finished.output
    return json.loads(finished.output.splitlines()[-1])


def test_a_tree_by_hand() -> None:
    """1 2 | 3, 1 2 | 4 5 and 6: six tokens; token t of a row sees t tokens."""
    assert tree([(1, 2, 3), (1, 2, 4, 5), (6,), (1, 2, 3)]) == (6, 1 + 2 + 3 + 3 + 4 + 1)


def test_flops_by_hand() -> None:
    shape = shape_of(BENCH_MODEL)
    assert isinstance(shape, ModelShape)
    rows = [("a", (1, 2), (3, 9)), ("a", (1, 2), (4,)), ("b", (1, 2), (3,))]
    layers, head = 2 * shape.layers * shape.layer_weights, 2 * shape.head_weights
    pair, image = 4 * shape.layers * shape.hidden, shape.vision.forward_flops(56, 56)
    # a: 1 2 | 3 9 and | 4: 5 tokens, 1 + 2 + 3 + 4 + 3 pairs; b: 3 tokens, 6 pairs.
    assert forward_flops(shape, rows, (56, 56), sampled=False) == 8 * layers + 19 * pair + 4 * head + 2 * image
    # The last sampled token of a completion is not read: a: 1 2 | 3, b: 1 2.
    assert forward_flops(shape, rows, (56, 56), sampled=True) == 5 * layers + 9 * pair + 4 * head + 2 * image


def test_a_step_now_before_and_as_trl(tmp_path: Path) -> None:
    options = ["--stages", "clue", "--warm_up", "0", "--micro_batch", "4", "--modes", "now", "before", "trl"]
    found = figures(tmp_path, "step.py", *options)
    for mode in ("now", "before", "trl"):
        for part in ("rollout", "rows", "update"):
            assert 0 < found[f"clue {mode}: utilisation of {part}"] < 1
    assert found["clue now: tokens that others had"] > found["clue before: tokens that others had"] > 0
    assert found["clue trl: tokens that others had"] == found["clue now: padding"] == 0
    assert found["clue before: padding"] > 0, "not all in one row, whose pairs cost something with a mask"
    assert found["clue: step, ratio of before to now"] > 0


def test_a_rollout_now_and_before(tmp_path: Path) -> None:
    found = figures(tmp_path, "rollout.py", "--repeats", "1", "--profile")
    for name in ("transformers", "before"):
        assert 0 < found[f"{name}: utilisation of the matmul peak"] < 1
    for counted in ("new tokens per game", "prompt tokens computed per game"):
        assert found[f"transformers: {counted}"] == found[f"before: {counted}"] > 0
    shares = {name: share for name, share in found.items() if "share of its time" in name}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["transformers, share of its time: matrix products"] > 0
