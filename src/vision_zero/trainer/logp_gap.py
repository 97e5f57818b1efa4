"""The guard on log-probabilities: those of a completion as sampled against the update's own forward of it, per token.

Equal but for rounding, whoever played: else another policy was sampled than the one that trains, and a run would end
"done" having learnt nothing. No forward is made for it: where an iteration is one optimizer step, the forwards of its
micro-batches are looked at before that step, else the old log-probs, which TRL computes before the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vision_zero.trainer.batching import Batch
from vision_zero.trainer.finite import how_to_go_on, keep_batch
from vision_zero.trainer.generation import LogprobGapError

if TYPE_CHECKING:
    from vision_zero.trainer.iterative_spo import IterativeSPOTrainer

LOGPROB_GAP = "sampling/logp_gap/"
WARNING_SHARE = 5
"""A gap above this part of the limit is told once, until it falls below it again."""


class LogprobGuard:
    """Of one iteration after another: `start`, `add` for every part of its batch, `check` before a weight moves."""

    def __init__(self, trainer: IterativeSPOTrainer, limit: float) -> None:
        self.trainer, self.limit = trainer, limit
        self._parts: list[torch.Tensor] = []
        self._worst: tuple[float, Batch] = (-1.0, {})

    def start(self) -> None:
        self._parts, self._worst = [], (-1.0, {})

    def add(self, logps_BT: torch.Tensor, batch: Batch) -> None:
        """The tokens that train, of rows whose log-probs the update has; padding and dummy samples are none."""
        mask_BT = (batch["completion_mask"] * batch.get("tool_mask", 1)).bool()
        gap = (logps_BT.detach() - batch["sampling_per_token_logps"])[mask_BT].abs().float()
        largest = torch.cat([gap, gap.new_zeros(1)]).max()  # NaN if there is one
        self._parts.append(torch.stack([gap.sum(), gap.new_tensor(len(gap)), largest]))
        if not self._worst[0] >= float(largest):
            self._worst = (float(largest), {**batch, "update_per_token_logps": logps_BT.detach()})

    def check(self) -> None:
        """Log the gap over all processes. Raises LogprobGapError on all of them alike if its mean is too large."""
        trainer, step = self.trainer, self.trainer.state.global_step
        sums_N3 = trainer.accelerator.gather(torch.stack(self._parts)).reshape(-1, 3)
        total, count = sums_N3[:, 0].sum().item(), sums_N3[:, 1].sum().item()
        mean, largest = total / max(count, 1), sums_N3[:, 2].max().item()
        trainer._metrics["train"][LOGPROB_GAP + "mean"].append(mean)
        trainer._metrics["train"][LOGPROB_GAP + "max"].append(largest)
        words = f"log-probs as sampled are {mean:.3g} per token from those of the update (largest {largest:.3g}"
        trainer.streaks.tell(
            "logp gap", mean > self.limit / WARNING_SHARE, f"{words}; the run stops at {self.limit:g}): see docs"
        )
        if mean <= self.limit:
            return self.start()
        folder = Path(trainer.args.output_dir)
        kept = keep_batch(folder, step, trainer.accelerator.process_index, self._worst[1])
        raise LogprobGapError(
            f"after step {step}: {words}, allowed {self.limit:g}). That is no rounding: who played has other weights, "
            f"other images or another prompt than the model that trains, and nothing would be learnt. Nothing of this "
            f"iteration was trained; its batch is kept at {kept}. {how_to_go_on(folder)}"
        )


def masked_share(trainer: IterativeSPOTrainer, batch: Batch) -> float:
    """Share of the completions, over all processes, that TRL's sequence mask drops for their gap."""
    real_B = (batch["completion_mask"] * batch.get("tool_mask", 1)).any(dim=1)
    dropped_B = real_B & (batch["importance_sampling_ratio"] == 0).all(dim=1)
    dropped, real = trainer.accelerator.reduce(torch.stack([dropped_B.sum(), real_B.sum()]), reduction="sum").tolist()
    return dropped / max(real, 1)
