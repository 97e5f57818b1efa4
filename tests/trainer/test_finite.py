"""Numbers that are not finite stop a run before a weight moves, a checkpoint is made or a good one is removed."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.process_helpers import train
from tests.trainer_helpers import make_trainer
from vision_zero import run_folder
from vision_zero.rollout.policy import NotFiniteError
from vision_zero.trainer import iterative_spo
from vision_zero.trainer.finite import first_not_finite
from vision_zero.trainer.iterative_spo import IterativeSPOTrainer

BAD = [math.nan, math.inf, -math.inf]


class Watched(TrainerCallback):
    """Weights at the beginning of the last step, and how many steps were taken."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.steps = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.steps += 1


def stopped(trainer: IterativeSPOTrainer, watched: Watched, says: str) -> str:
    """The run stops in its second step: weights are those before it, the first checkpoint is the last one."""
    with pytest.raises(NotFiniteError, match=says) as stop:
        trainer.train()
    assert watched.steps == 2
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, watched.weights[name]), name
    folder = Path(trainer.args.output_dir)
    assert [path.name for path in run_folder.complete_checkpoints(folder)] == ["checkpoint-1"]
    assert f"The last good checkpoint is {folder / 'checkpoint-1'}" in str(stop.value)
    return str(stop.value)


def trainer_of(tmp_path: Path, watched: Watched, **options: Any) -> IterativeSPOTrainer:
    return make_trainer(
        tmp_path, iterations=3, save_strategy="steps", save_steps=1, save_total_limit=1, callbacks=[watched], **options
    )


@pytest.mark.fault("NaN, inf in a loss")
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("stage", ["decision", "clue"])
def test_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, bad: float) -> None:
    watched = Watched()
    trainer = trainer_of(tmp_path, watched, schedule=stage)
    scored = trainer.packed.logps_and_entropies

    def broken(*args: Any, **kwargs: Any) -> Any:
        logps, *rest = scored(*args, **kwargs)
        is_update = torch.is_grad_enabled() and trainer.state.global_step == 1
        return (logps * bad if is_update else logps, *rest)

    monkeypatch.setattr(trainer.packed, "logps_and_entropies", broken)
    said = stopped(trainer, watched, "^after step 1: loss is not finite")
    kept = torch.load(Path(trainer.args.output_dir) / "stopped" / "step-000001-rank-0.pt", weights_only=True)
    assert "step-000001-rank-0.pt" in said
    assert kept["completion_ids"].shape == kept["completion_mask"].shape


@pytest.mark.fault("NaN, inf in an advantage")
@pytest.mark.parametrize("bad", BAD)
def test_an_advantage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    watched = Watched()
    trainer = trainer_of(tmp_path, watched, schedule="clue")
    advantages = iterative_spo.final_advantages

    def broken(samples: Any, *args: Any, **kwargs: Any) -> list[float]:
        found = advantages(samples, *args, **kwargs)
        return [*found[:-1], bad] if trainer.state.global_step == 1 else found

    monkeypatch.setattr(iterative_spo, "final_advantages", broken)
    stopped(trainer, watched, "^after step 1: advantages is not finite")


@pytest.mark.fault("NaN, inf in a gradient")
@pytest.mark.parametrize("bad", BAD)
def test_a_gradient(tmp_path: Path, bad: float) -> None:
    watched = Watched()
    trainer = trainer_of(tmp_path, watched, schedule="decision")

    def broken(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * bad if trainer.state.global_step == 1 else gradient

    next(trainer.model.parameters()).register_hook(broken)
    stopped(trainer, watched, "^after step 1: gradient norm is not finite")


@pytest.mark.fault("NaN, inf in a weight")
@pytest.mark.parametrize("bad", BAD)
def test_a_weight_is_never_saved(tmp_path: Path, bad: float) -> None:
    """Whatever made it: the checkpoint before stays, and is named."""

    class Breaks(Watched):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 1:
                with torch.no_grad():
                    model.get_output_embeddings().weight[0, 0] = bad

    watched = Breaks()
    trainer = trainer_of(tmp_path, watched, schedule="decision")
    with pytest.raises(NotFiniteError, match=r"^after step 2: .*weight is not finite"):
        trainer.train()
    folder = Path(trainer.args.output_dir)
    assert [path.name for path in run_folder.checkpoints(folder)] == ["checkpoint-1"]
    assert run_folder.is_complete(folder / "checkpoint-1")


@pytest.mark.fault("learning rate far too high")
def test_a_learning_rate_that_breaks_the_model_ends_in_one_line(tmp_path: Path) -> None:
    finished = train(tmp_path / "run", iterations=6, learning_rate=1e30, lr_scheduler_type="constant", warmup_steps=0)
    assert finished.status == 1
    line = finished.output.strip().splitlines()[-1]
    assert line.startswith("error: after step ")
    assert "the model's logits are not finite" in line or "is not finite" in line
    assert "Traceback" not in finished.output


def test_the_filter_that_hides_a_broken_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="logging_nan_inf_filter=True must stay False: a loss that is not finite"):
        make_trainer(tmp_path, logging_nan_inf_filter=True)


def test_the_first_that_is_not_finite_is_named() -> None:
    whole, broken = torch.ones(3), torch.tensor([0.0, math.nan])
    assert first_not_finite([("ids", torch.ones(2, dtype=torch.long)), ("a", whole)]) is None
    assert first_not_finite([("a", whole), ("b", broken), ("c", broken)]) == "b"
    whole.ds_tensor = broken  # type: ignore[attr-defined]  # as ZeRO-3 keeps its part of a parameter
    assert first_not_finite([("a", whole)]) == "a"
