"""The guard on log-probs: what it measures, on every path, and that it stops a run before a weight moves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.process_helpers import flags
from tests.trainer.test_finite import Watched
from tests.trainer_helpers import (
    BENCH_MODEL,
    RandomImage,
    make_trainer,
    of_many_lengths,
    record_rollouts,
    relabelled,
)
from vision_zero import run_folder
from vision_zero.config.parse import parse
from vision_zero.rollout import sampling
from vision_zero.rollout.play import Seating
from vision_zero.rollout.self_check import FLOAT32_LIMIT, HALF_LIMIT, gap_limit
from vision_zero.spo.scoring import GameScore
from vision_zero.trainer.generation import LogprobGapError
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer
from vision_zero.trainer.logp_gap import LogprobGuard, masked_share
from vision_zero.trainer.metrics import Streaks, tell_of_iteration
from vision_zero.types import ImagePair, Stage

MEAN, MAX = "sampling/logp_gap/mean", "sampling/logp_gap/max"
PATHS: dict[str, dict[str, Any]] = {
    "one step": {},
    "two steps": {"updates_per_iteration": 2},
    "twice": {"num_iterations": 2},
    "rows by themselves": {"share_prefixes": False},
}
"""Of an iteration: micro-batches of one optimizer step, or old log-probs before the first of several."""


def moved(policy: Any, by: float, first: int = 0, only: str | None = None) -> Any:
    """`policy` with log-probs that are `by` too high from the turn's token `first` on, of one `only` stage if given."""

    class Moved:
        def answer(self, requests: Any) -> Any:
            return [
                said
                if only not in (None, request.turn.stage)
                else replace(said, logprobs=tuple(lp + by * (k >= first) for k, lp in enumerate(said.logprobs)))
                for request, said in zip(requests, policy.answer(requests), strict=True)
            ]

    return Moved()


def players_moved(by: float, **which: Any) -> Any:
    def players(policy: Any, stage: Stage) -> Seating:
        return Seating.of(moved(relabelled(policy, stage).voter, by, **which))

    return players


@pytest.mark.parametrize("path", PATHS)
def test_the_gap_is_the_one_by_hand(path: str, tmp_path: Path) -> None:
    """Over all micro-batches, of rows that are padded and with a dummy sample: 9 clues in two of 5."""

    def players(policy: Any, stage: Stage) -> Seating:
        return Seating.of(moved(of_many_lengths(policy, stage).voter, 4e-4, first=1))

    batches = {"games": 3, "per_device_train_batch_size": 6}
    trainer = make_trainer(tmp_path, players=players, schedule="clue", iterations=2, **batches, **PATHS[path])
    rollouts = record_rollouts(trainer)
    trainer.train()
    lengths = [len(clue.completion.token_ids) for game in rollouts[0].games for clue in game.clues]
    expected = 4e-4 * sum(n - 1 for n in lengths) / sum(lengths)
    lines = [line for line in trainer.state.log_history if MEAN in line]
    assert len(lines) == 2  # of each iteration, with its first step
    line = lines[0]
    assert line[MEAN] == pytest.approx(expected, abs=3e-6)
    assert line[MAX] == pytest.approx(4e-4, abs=1e-5)


@pytest.mark.parametrize(("path", "by"), [("one step", -2e-3), ("two steps", 2e-3), ("one step", math.nan)])
def test_another_policy_stops_the_run_before_a_weight_moves(path: str, by: float, tmp_path: Path) -> None:
    watched = Watched()
    trainer = make_trainer(tmp_path, players=players_moved(by), callbacks=[watched], **PATHS[path])
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    with pytest.raises(LogprobGapError, match=r"^after step 0: .*sampling/logp_gap/mean, at most 0\.001") as stop:
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer.model.named_parameters())
    kept = torch.load(tmp_path / "stopped" / "step-000000-rank-0.pt")
    assert str(tmp_path / "stopped" / "step-000000-rank-0.pt") in str(stop.value)
    rows = sum(len(batch["completion_ids"]) for batch in kept["batches"])
    assert rows == 8
    for batch, logps in zip(kept["batches"], kept["update_per_token_logps"], strict=True):
        gap = (batch["sampling_per_token_logps"] - logps)[batch["completion_mask"].bool()]
        assert gap.isnan().all() if math.isnan(by) else torch.allclose(gap, torch.tensor(by), atol=1e-5)


def test_a_single_token_that_is_nan_is_a_gap(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, players=players_moved(math.nan, first=3))
    with pytest.raises(LogprobGapError, match="nan per token"):
        trainer.train()


def test_completions_of_the_other_stage_are_left_out(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, players=players_moved(1.0, only="clue"), schedule="decision")
    trainer.train()
    assert trainer.state.log_history[0][MEAN] < 1e-5


def test_a_fifth_of_the_limit_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, players=players_moved(5e-4), iterations=3)
    trainer.train()
    told = [line for line in capsys.readouterr().err.splitlines() if "log-probs as sampled" in line]
    assert len(told) == 1
    assert told[0].startswith("warning: after step 0: log-probs as sampled are 0.0005 per token")


def test_the_weights_that_played_are_those_compared(tmp_path: Path) -> None:
    """Weights that change between the rollout and the update are another policy."""
    trainer = make_trainer(tmp_path)
    play = trainer._play

    def played(*args: Any) -> Any:
        result = play(*args)
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.mul_(1.2)
        return result

    trainer._play = played  # type: ignore[method-assign]
    with pytest.raises(LogprobGapError):
        trainer.train()


def test_with_another_image_both_log_probs_move_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of sight: on the same tokens, what the player and what the update see of another image is the same."""
    monkeypatch.setattr(
        sampling,
        "invert_cdf",
        lambda logits_BV, uniforms_B, *_: (uniforms_B * 600).long() + 100,  # whatever the image
    )
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(BENCH_MODEL, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # an image matters more than rounding
    sampled, update, tokens = [], [], []
    for images in (0, 100):
        pairs = [ImagePair("one", RandomImage(images), RandomImage(images), domain="scenes")]
        trainer = make_trainer(tmp_path, model=model, pairs=pairs, games=1, learning_rate=0.0, weight_decay=0.0)
        seen: list[tuple[torch.Tensor, Any]] = []
        monkeypatch.setattr(LogprobGuard, "add", lambda self, logps, batch, seen=seen: seen.append((logps, batch)))
        monkeypatch.setattr(LogprobGuard, "check", lambda self: None)
        trainer.train()
        ((logps, batch),) = seen
        sampled.append(batch["sampling_per_token_logps"])
        update.append(logps.detach())
        tokens.append(batch["completion_ids"])
    assert torch.equal(*tokens)
    by_player, by_update = sampled[1] - sampled[0], update[1] - update[0]
    assert by_player.abs().mean() > 0.01
    assert torch.allclose(by_player, by_update, atol=1e-4)


def test_limits_follow_the_coarsest_precision() -> None:
    layer = torch.nn.Linear(1, 1)
    assert gap_limit(layer) == gap_limit(layer, False, None, "torch.float32") == FLOAT32_LIMIT == 1e-3
    assert gap_limit(layer, True) == gap_limit(layer, False, "torch.bfloat16") == HALF_LIMIT == 0.05
    assert gap_limit(layer, "torch.float16") == gap_limit(torch.nn.Linear(1, 1, dtype=torch.bfloat16)) == HALF_LIMIT


@pytest.mark.parametrize("options", [{"bf16": True}, {"model_init_kwargs": {"dtype": "bfloat16"}}])
def test_a_run_in_16_bits_has_its_own_limit(options: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, players=players_moved(0.02), **options)
    assert trainer.logprob_guard.limit == HALF_LIMIT
    trainer.train()
    assert 0.01 < trainer.state.log_history[0][MEAN] < HALF_LIMIT


def test_the_share_that_the_sequence_mask_drops(tmp_path: Path) -> None:
    """Two of three; a dummy sample is no completion."""
    batch = {
        "completion_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0]]),
        "tool_mask": torch.tensor([[1, 1], [1, 1], [1, 1], [0, 0]]),
        "importance_sampling_ratio": torch.tensor([[0.0], [0.9], [0.0], [0.0]]),
    }
    assert masked_share(make_trainer(tmp_path), batch) == pytest.approx(2 / 3)


# ------------------------------------------------------------------------------------------------------------- dropout


def with_dropout(**where: float) -> Qwen2_5_VLForConditionalGeneration:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(BENCH_MODEL, dtype=torch.float32)
    for name, module in model.named_modules():
        for part, value in where.items():
            if name.endswith(part):
                module.attention_dropout = value
    return model


def test_a_dropout_of_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.attention_dropout=0\.1 must be 0"):
        make_trainer(tmp_path, model=with_dropout(self_attn=0.1))


def test_a_dropout_of_the_adapter_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig

    with pytest.raises(ValueError, match=r"lora_dropout\.default\.dropout=0\.1 must be 0"):
        make_trainer(tmp_path, peft_config=LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.1))
    lora = {"use_peft": True, "lora_target_modules": ["q_proj"]}
    with pytest.raises(ValueError, match=r"lora_dropout=0\.05 must be 0"):
        parse(flags(output_dir=tmp_path, lora_dropout=0.05, **lora))
    assert parse(flags(output_dir=tmp_path, **lora))[2].lora_dropout == 0


def test_a_dropout_of_a_tower_that_is_frozen_drops_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, model=with_dropout(**{"blocks.0.attn": 0.1}), freeze_vision=True)
    trainer.train()
    assert trainer.state.log_history[0][MEAN] < 1e-5


# ----------------------------------------------------------------------------------------------- the option it replaces


def test_the_option_of_before(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    for value, words in ((0.1, None), (0.2, "unknown options: max_logp_difference; max_logp_difference: leave it out")):
        file.write_text(f"max_logp_difference: {value}\n")
        arguments = ["--config", str(file), *flags(output_dir=tmp_path / "run")]
        if words is None:
            parse(arguments)
        else:
            with pytest.raises(ValueError, match=words):
                parse(arguments)
    with pytest.raises(ValueError, match=r"--max_logp_difference 0\.2; see .*sampling/logp_gap/mean has fixed limits"):
        parse(flags(output_dir=tmp_path / "run", max_logp_difference=0.2))
    run_folder.describe(tmp_path / "run", {"seed": 1, "max_logp_difference": 0.2})
    with pytest.raises(run_folder.RunFolderError, match="leave it out: sampling/logp_gap/mean has fixed limits"):
        run_folder.find_start(tmp_path / "run", True, {"seed": 1})


# -------------------------------------------------------------------------------------------------------- told in words


def told(trainer: IterativeSPOTrainer, capsys: pytest.CaptureFixture[str], resume: Path | None = None) -> list[str]:
    capsys.readouterr()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(("stage", "loss_type"), [("clue", "grpo"), ("decision", "dapo")])
def test_completions_that_are_all_cut_train_nothing_and_that_is_told(
    stage: str, loss_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's random weights end no completion."""
    options = {"schedule": stage, "loss_type": loss_type, "beta": 0.0}
    trainer = make_trainer(tmp_path, mask_truncated_completions=True, iterations=2, **options)
    (line,) = told(trainer, capsys)
    assert line == "warning: after step 0: all completions were cut (mask_truncated_completions), none trains"
    assert [entry["grad_norm"] for entry in trainer.state.log_history[:2]] == [0, 0]


def unread(policy: Any, stage: Stage) -> Seating:
    from tests.trainer_helpers import Relabelled

    return Seating.of(Relabelled(policy, vote=lambda request: "no idea", clue=lambda request: "no box"))


def test_nothing_that_can_be_parsed_is_told_once_a_streak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save = {"save_strategy": "steps", "save_steps": 3}
    trainer = make_trainer(tmp_path, players=unread, iterations=5, **save)
    lines = told(trainer, capsys)
    assert [line.split(";")[0] for line in lines] == [
        "warning: iteration 1: none of the clues could be parsed",
        "warning: iteration 1: none of the votes could be parsed",
        "warning: iteration 5: all rewards have been equal for 5 iterations, nothing is learnt",
        "warning: iteration 5: the votes are lost: 1.00 of them cannot be read",
    ]
    resumed = make_trainer(tmp_path, players=unread, iterations=5, **save)
    lines = told(resumed, capsys, tmp_path / "checkpoint-3")  # the streaks go on
    assert [line.split(":")[1].strip() for line in lines] == ["iteration 5", "iteration 5"]


def test_an_alarm_is_told_at_the_fifth_iteration_in_a_row_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    streaks, scores = Streaks(shown=True), SimpleNamespace(by_game={})
    base = {"clues/unparsed": 0.0, "votes/invalid": 0.0, "stage/is_clue": 0.0, "votes/zero_variance_games": 0.5}
    shares = [0.3, 0.3, 0.2, *[0.3] * 7, 0.2, *[0.3] * 5]
    for iteration, share in enumerate(shares, start=1):
        found: Any = scores
        tell_of_iteration(streaks, iteration, {**base, "stage/na_rate": share}, found)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": the voters flee: 0.30")[0] for line in lines] == [
        "warning: iteration 8",
        "warning: iteration 16",
    ]


@pytest.mark.parametrize("stage", ["decision", "clue"])
def test_rewards_that_differ_are_not_told(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Rewards of a game's votes, or of all clues; with a format reward, that too."""
    same = GameScore(clue_rewards=[0.0, 0.0], clue_advantages=[0.0, 0.0], vote_rewards=[-1.0, -1.0])
    equal, other = {0: same, 1: same}, {0: same, 1: replace(same, clue_rewards=[0.0, 0.1], vote_rewards=[-1.0, 1.0])}
    base = {"clues/unparsed": 0.9, "votes/invalid": 0.0, "stage/is_clue": float(stage == "clue")}
    for games, metrics, times in (
        (other, {"votes/zero_variance_games": 0.5}, 0),
        (equal, {"votes/zero_variance_games": 1.0}, 1),
        (equal, {"votes/zero_variance_games": 1.0, "reward/format": -1.0}, 1),
        (equal, {"votes/zero_variance_games": 1.0, "reward/format": 0.5}, 0),
    ):
        streaks = Streaks(shown=True)
        scores: Any = SimpleNamespace(by_game=games)
        for iteration in range(1, 9):
            tell_of_iteration(streaks, iteration, {**base, **metrics}, scores)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == times
        assert all(line.startswith("warning: iteration 5: all rewards have been equal for 5") for line in lines)
