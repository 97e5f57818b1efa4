"""Out of memory is told in one line: the part, what bounds it, how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.process_helpers import flags
from vision_zero.rollout.load_policy import Loading, load_player
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.run_folder import complete_checkpoints
from vision_zero.train import main
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer
from vision_zero.trainer.trl_without_vllm import GRPOTrainer

TOO_MUCH = 1 << 46


def too_much(*args: Any, **kwargs: Any) -> None:
    torch.empty(TOO_MUCH)


@pytest.mark.parametrize(
    ("of", "method", "doing", "advice"),
    [
        (IterativeSPOTrainer, "_play", "playing", "--rollout_batch_size"),
        (GRPOTrainer, "_generate_and_score_completions", "scoring", "--logprob_tokens"),
        (GRPOTrainer, "compute_loss", "updating", "--per_device_train_batch_size"),
    ],
)
def test_the_part_is_told_and_the_checkpoint_stays(
    of: type, method: str, doing: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(flags(output_dir=tmp_path, iterations=1, save_every=1))
    monkeypatch.setattr(of, method, too_much)
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", str(tmp_path), "--resume", "true", "--iterations", "2"])
    message = str(stopped.value)
    assert message.startswith(f"error: out of memory while {doing}: ")
    assert "can't allocate memory" in message
    assert advice in message
    assert "\n" not in message
    assert len(complete_checkpoints(tmp_path)) == 1


def test_a_self_check_does_not_take_it_for_a_wrong_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TransformersPolicy, "answer", too_much)
    with pytest.raises(SystemExit, match="error: out of memory while"):
        main(flags(output_dir=tmp_path))
    from tests.rollout.test_self_check import BENCH_MODEL, game

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load_player(str(BENCH_MODEL), Loading(Sampling(), use_cpu=True), game(), "compact")
