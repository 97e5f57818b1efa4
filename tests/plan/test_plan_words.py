"""The command, its table in the documentation, presets of the LoRA script, and the line of a run's start."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import overlap
from benchmarks.hardware_table import table
from vision_zero.plan.__main__ import main
from vision_zero.plan.cost import GIB, Tokens, update_flops
from vision_zero.plan.fit import card_of, memory, nearest, peak, prompts_of, seconds, setup
from vision_zero.plan.say import line, preset, run_setup, verdict
from vision_zero.plan.shape import read_shape

ROOT = Path(__file__).parents[2]
SEVEN = read_shape("qwen2.5-vl-7b")
ONE_GPU = {"train": "lora", "zero": 0, "gpus": 1, "games": 32, "rollout_batch": 64}


def gib(**options: object) -> float:
    return peak(memory(SEVEN, setup(**options)))[1]


def test_state_of_all_weights_by_hand() -> None:
    """8 GPUs, ZeRO-3: 2 bytes of weights, 12 of masters and AdamW, 2 of gradients and 2 of the reference, an eighth."""
    n = SEVEN.parameters / 8 / GIB
    parts = memory(SEVEN, setup())["update"]
    assert [parts[name] / n for name in ("weights", "optimizer", "gradients", "reference")] == pytest.approx(
        [2, 12, 2, 2]
    )
    whole = memory(SEVEN, setup(zero=2))["update"]
    assert [whole[name] / n for name in ("weights", "optimizer", "gradients", "reference")] == pytest.approx(
        [16, 12, 2, 16]
    )


def test_adapters_and_four_bits_by_hand() -> None:
    parts = memory(SEVEN, setup(**ONE_GPU))["update"]
    adapters = SEVEN.adapter_parameters(32) / GIB
    assert parts["weights"] == pytest.approx(2 * SEVEN.parameters / GIB)
    assert [parts[name] for name in ("adapters", "gradients", "optimizer")] == pytest.approx(
        [4 * adapters, 4 * adapters, 8 * adapters]
    )
    quantized = SEVEN.layers * SEVEN.layer_weights
    four = memory(SEVEN, setup(**ONE_GPU | {"train": "qlora"}))["update"]
    assert four["weights"] == pytest.approx((2 * SEVEN.parameters - 1.4375 * quantized) / GIB)


def test_weights_are_gathered_beside_their_shards() -> None:
    eight = memory(SEVEN, setup())
    n = SEVEN.parameters / GIB
    for phase in ("rollout", "arena"):
        assert eight[phase]["gathered weights"] == pytest.approx(2 * n)
        assert eight[phase]["weights"] == pytest.approx(2 * n / 8)
    assert eight["arena"]["gathered reference"] == pytest.approx(2 * n)
    assert "gathered weights" not in memory(SEVEN, setup(zero=2))["rollout"]


def test_what_takes_less() -> None:
    base = gib(**ONE_GPU)
    assert gib(**ONE_GPU | {"rollout_batch": 8}) < base
    assert gib(**ONE_GPU | {"max_pixels": 12_845_056}) > 2 * base
    assert gib(arena=False) < gib() < gib(gpus=4)
    assert gib(offload=True, arena=False) < gib(arena=False)
    update = [sum(memory(SEVEN, setup(micro_batch=size))["update"].values()) for size in (4, 8, 16)]
    assert sorted(update) == update


def test_offload_of_zero_two_and_whole_weights_without_zero_are_refused() -> None:
    for options, said in (
        ({"zero": 0}, "ZeRO 2 or 3"),
        ({"zero": 2, "offload": True}, "ZeRO-3"),
        ({"train": "qlora"}, "--zero 0"),
        ({"player": "vllm", "vllm_share": 0.1}, "does not hold the engine's own weights"),
        ({"gpu": "Tesla T4", "player": "vllm"}, "--gpu Tesla T4: give 24, 48, 80"),
    ):
        with pytest.raises(ValueError, match=said):
            memory(SEVEN, setup(**options))


def test_seconds_fall_with_gpus_and_rise_with_images() -> None:
    eight, four, large = (sum(seconds(SEVEN, s).values()) for s in (setup(), setup(gpus=4), setup(max_pixels=10**6)))
    assert eight < four < large


def test_the_nearest_that_fits_changes_least() -> None:
    fits = setup()
    assert nearest(SEVEN, fits) == fits
    assert verdict(SEVEN, fits).startswith("fits: ")
    small = setup(**ONE_GPU, gpu="24")
    found = nearest(SEVEN, small)
    assert found is not None
    assert peak(memory(SEVEN, found))[1] <= card_of(small).gib < gib(**ONE_GPU, gpu="24")
    assert vars(found) | {"rollout_batch": 64} == vars(small)
    twice = vars(found) | {"rollout_batch": 2 * found.rollout_batch}
    assert peak(memory(SEVEN, Namespace(**twice)))[1] > card_of(small).gib
    assert f"nearest that does: --rollout_batch_size {found.rollout_batch}" in verdict(SEVEN, small)


def test_presets_and_what_only_four_bits_would_hold() -> None:
    assert preset(SEVEN, setup(**ONE_GPU, gpu="80")) == (
        "--per_device_train_batch_size 8 --rollout_batch_size 64 --max_pixels 76800"
    )
    for gpu in ("24", "48"):
        assert preset(SEVEN, setup(**ONE_GPU, gpu=gpu)).endswith(" --max_pixels 76800 --use_vllm false")
    four = preset(read_shape("internvl3-14b"), setup(**ONE_GPU, gpu="48", model="internvl3-14b"))
    assert four.endswith(" --load_in_4bit true --use_vllm false")
    with pytest.raises(ValueError, match="no batch does"):
        preset(read_shape("qwen2.5-vl-32b"), setup(**ONE_GPU, gpu="24", model="qwen2.5-vl-32b"))


def test_playing_ahead_is_not_worth_it() -> None:
    """Half of the decision is recomputed: 1.15 against twice the games per GPU would be."""
    page, made = (ROOT / "docs" / "performance.md").read_text(), overlap.table([(8, "A100")])
    assert made in page
    said = page.split(overlap.HEAD)[1].split("\n\n")[0].splitlines()[2:]
    assert len(said) == len(overlap.MACHINES) * len(overlap.REPLIES) * 2
    assert max(float(line.split("|")[-2].strip(" ×")) for line in said) < 1.15


def test_votes_may_be_longer_than_clues() -> None:
    """The votes of a decision iteration, 16 games of 8 on a GPU; a clue iteration, the other half, has none."""
    same, longer = (seconds(SEVEN, setup(), vote_tokens=tokens) for tokens in (238, 476))
    assert same == seconds(SEVEN, setup())
    flops = [
        update_flops(SEVEN, [Tokens(prompts_of(SEVEN, setup())[-1], tokens)] * 128, 32, (277, 277), "full", shared=0.75)
        for tokens in (238, 476)
    ]
    more = (flops[1] - flops[0]) / 2 / card_of(setup()).flops
    assert longer["update"] - same["update"] == pytest.approx(more)
    assert longer["exchange"] == same["exchange"]
    assert longer["prefill"] == same["prefill"]


def test_the_table_of_the_documentation() -> None:
    """Made by `python benchmarks/hardware_table.py`; README's cells are among its."""
    made = table()
    assert made in (ROOT / "docs" / "hardware.md").read_text()
    rows = (ROOT / "README.md").read_text().split("| | 3B | 7B | 14B | 32B |")[1].split("\n\n")[0].splitlines()[2:]
    machines = {"1 × 24 GB": 0, "1 × 80 GB": 2, "8 × 80 GB": 4}
    ways = {"all weights": 0, "LoRA": 1, "QLoRA": 2}
    models = {"3B": 0, "7B": 1, "14B": 3, "32B": 4}
    cells = [[cell.strip() for cell in row.strip("|").split("|")][2:] for row in made.splitlines()[2:]]
    for row in rows:
        machine, *said = (cell.strip() for cell in row.strip("|").split("|"))
        for model, cell in zip(models.values(), said, strict=True):
            way, _, figures = cell.partition(": ")
            if cell == "–":
                own = [cells[3 * model + k][machines[machine]] for k in range(3)]
                assert all(one == "–" or "offload" in one for one in own)
                continue
            memory_gib, hours = figures.split(", ")
            found = cells[3 * model + ways[way]][machines[machine]]
            assert found.startswith(f"{memory_gib}; ")
            assert f", {hours}; " in found


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "qwen2.5-vl-3b", "--gpus", "1", "--gpu", "RTX 4090"])
    said = capsys.readouterr().out
    assert said.startswith(
        "qwen2.5-vl-3b: 3.8 B parameters, all weights on 1 GPU of RTX 4090, ZeRO-3, transformers plays"
    )
    assert "does not fit: " in said.splitlines()[-1]
    with pytest.raises(SystemExit, match="error: nothing is no folder"):
        main(["--model", "nothing"])


def test_it_needs_neither_torch_nor_transformers() -> None:
    program = "import sys; from vision_zero.plan.__main__ import main; main([]); print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers"} & {*finished.stdout.splitlines()[-1].split()}


def test_the_line_of_a_run() -> None:
    def said(model: str, gpu: str | None) -> str:
        return line(setup(**ONE_GPU, model=model, gpu=gpu))

    # 8.292 B weights, and 12 bytes for each of 28 x 32 x (2 x 7168 + 2 x 4096 + 3 x 22528) of the adapter
    lora = setup(**ONE_GPU, model="qwen2.5-vl-7b", gpu=None)
    assert line(lora) == "plan: 8.29 B parameters; weights, gradients, optimizer and reference 32 GiB"
    assert line(lora, 2) == "plan: 8.29 B parameters; weights, gradients, optimizer and reference 16 GiB"
    card = "NVIDIA A100-SXM4-80GB"
    start = f"plan: 8.29 B parameters, LoRA r=32 on 1 GPU of {card}, transformers plays: fits: 29.9 of"
    assert said("qwen2.5-vl-7b", card).startswith(start)
    assert said(str(ROOT / "data" / "tiny_vlm"), None).startswith("plan: 0.00")
    unknown = "plan: no figures for qwen2.5-vl-7b: --gpu Tesla T4: give 24, 48, 80"
    assert said("qwen2.5-vl-7b", "Tesla T4").startswith(unknown)
    assert said("/nowhere", None).startswith("plan: no figures for /nowhere: /nowhere is no folder")


def test_the_setup_of_a_run(tmp_path: Path) -> None:
    """Every option of the launch script's defaults that the plan has is the plan's default."""
    from vision_zero.config.parse import parse

    words = "--civilians 4 --rounds 2 --games_per_iteration 128 --num_generations 8 --per_device_train_batch_size 8"
    words += " --rollout_batch_size 256 --max_pixels 76800 --arena_every 50 --use_cpu true"
    paths = ["--images", "drawn:4", "--model_name_or_path", "qwen2.5-vl-7b", "--output_dir", str(tmp_path)]
    game, args, model = parse([*words.split(), *paths])
    found = vars(run_setup(model, game, args, "80"))
    unlike = {name: found[name] for name, value in vars(setup()).items() if found[name] != value}
    assert unlike == {"gpus": 1, "zero": 0, "rank": 16}
