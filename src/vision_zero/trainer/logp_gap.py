"""The guard on log-probabilities: those of a completion as sampled against the update's own forward of it, per token.

They are equal but for rounding, whoever played; else another policy was sampled than the one that trains. No forward is
made for it: where an iteration is one optimizer step, those of its micro-batches are looked at before that step, else
the old log-probs, which TRL computes before the first.
"""

from pathlib import Path
from typing import Any

import torch

from vision_zero.trainer.batching import Batch
from vision_zero.trainer.finite import how_to_go_on, keep_batch
from vision_zero.trainer.generation import LogprobGapError

LOGPROB_GAP = "sampling/logp_gap/"


def trained_tokens(batch: Batch) -> torch.Tensor:
    """Mask [rows, tokens] without padding and dummy samples."""
    return (batch["completion_mask"] * batch.get("tool_mask", 1)).bool()


class LogprobGuard:
    """Of one iteration of an `IterativeSPOTrainer` after another. `limit` is that of the mean gap."""

    def __init__(self, trainer: Any, limit: float) -> None:
        self.trainer, self.limit = trainer, limit
        self._parts: list[tuple[torch.Tensor, Batch]] = []

    def start(self, batch: Batch) -> None:
        """At the batch of an iteration. Raises LogprobGapError if its old log-probs are there, and too far."""
        trainer = self.trainer
        words = "all completions were cut (mask_truncated_completions), none trains"
        cut = not batch["num_items_in_batch"]
        trainer.streaks.tell("all cut", cut, f"after step {trainer.state.global_step}: {words}")
        batch["num_items_in_batch"] = batch["num_items_in_batch"].clamp(min=1)  # "dapo" divides by it
        self._parts = []
        if "old_per_token_logps" in batch:
            self._parts = [(batch["old_per_token_logps"], batch)]
            self.check()
        if "importance_sampling_ratio" in batch and trainer.vllm_importance_sampling_mode == "sequence_mask":
            trainer._metrics["train"]["sampling/masked_completions"].append(masked_share(trainer, batch))

    def add(self, logps_BT: torch.Tensor, batch: Batch) -> None:
        """At a micro-batch of the update. Raises LogprobGapError at the last of an iteration of one optimizer step."""
        if "old_per_token_logps" not in batch:
            self._parts.append((logps_BT.detach(), batch))
            if self.trainer.accelerator.sync_gradients:
                self.check()

    def check(self) -> None:
        """Log the gap over all processes. Raises LogprobGapError on all of them alike if its mean is too large."""
        trainer, parts, self._parts = self.trainer, self._parts, []
        gap = torch.cat([(lp - batch["sampling_per_token_logps"])[trained_tokens(batch)] for lp, batch in parts])
        gap = gap.abs().float()
        own = torch.stack([gap.sum(), gap.new_tensor(len(gap)), torch.cat([gap, gap.new_zeros(1)]).max()])
        sums_N3 = trainer.accelerator.gather(own).reshape(-1, 3)
        mean, largest = (sums_N3[:, 0].sum() / sums_N3[:, 1].sum().clamp(min=1)).item(), sums_N3[:, 2].max().item()
        trainer._metrics["train"][LOGPROB_GAP + "mean"].append(mean)
        trainer._metrics["train"][LOGPROB_GAP + "max"].append(largest)
        step, folder = trainer.state.global_step, Path(trainer.args.output_dir)
        words = f"after step {step}: log-probs as sampled are {mean:.3g} per token from those of the update"
        trainer.streaks.tell("log-prob gap", mean > self.limit / 5, f"{words}; at {self.limit:g} the run stops")
        if mean <= self.limit:
            return
        kept = {"batches": [batch for _, batch in parts], "update_per_token_logps": [lp for lp, _ in parts]}
        where = keep_batch(folder, step, trainer.accelerator.process_index, kept)
        raise LogprobGapError(
            f"{words} ({LOGPROB_GAP}mean, at most {self.limit:g}; the largest is {largest:.3g}). That is no rounding: "
            "who played has other weights, other images or another prompt, and nothing would be learnt. Nothing of "
            f"this iteration was trained.{where} {how_to_go_on(folder)}"
        )


def masked_share(trainer: Any, batch: Batch) -> float:
    """Share of the completions, over all processes, that TRL's sequence mask drops for their gap."""
    real_B = trained_tokens(batch).any(dim=1)
    dropped_B = real_B & (batch["importance_sampling_ratio"] == 0).all(dim=1)
    dropped, real = trainer.accelerator.reduce(torch.stack([dropped_B.sum(), real_B.sum()]), reduction="sum").tolist()
    return float(dropped / max(real, 1))
