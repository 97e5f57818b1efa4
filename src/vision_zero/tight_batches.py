"""A GRPOTrainer whose forwards see rows of similar length without their padding (`micro_batches`).

Three of TRL's methods are wrapped, none is copied. A subclass calls `plan` before TRL scores its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from vision_zero.micro_batches import Batch, chunks, cut, image_cost, order_rows, score_in_chunks, tokens_and_cells
from vision_zero.rollout.transformers import without_adapter_wrapper
from vision_zero.rows import Row


class TightBatches(GRPOTrainer):
    """`args` has `logprob_tokens`, `freeze_vision` and `updates_per_iteration`."""

    _order: list[int]
    _chunks: list[list[int]]

    def plan(self, rows: Sequence[Row]) -> None:
        """Decide in which order `rows`, the next batch, are cut into micro-batches and scored."""
        model = without_adapter_wrapper(self.accelerator.unwrap_model(self.model))
        image_tokens = rows[0].prompt_ids.count(model.config.image_token_id)
        cost = 0.0 if self.args.freeze_vision else image_cost(model, image_tokens)
        self._order = order_rows(rows, self.args.steps_per_generation, self.args.updates_per_iteration, cost)
        self._chunks = chunks(rows, self._order, self.args.logprob_tokens)
        # Every forward of ZeRO-3 waits for the other processes, so all of them need equally many.
        most = max(gather_object([len(self._chunks)]))
        self._chunks += [self._chunks[-1]] * (most - len(self._chunks))

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        """TRL's buffering of a generation batch, cut by plan instead of shuffled."""
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = self._cut(batch)
            self._log_padding(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _cut(self, batch: Batch) -> list[Batch]:
        return cut(batch, self._order, self.args.steps_per_generation, self.pad_to_multiple_of)

    def _log_padding(self, micro_batches: list[Batch]) -> None:
        counted = torch.tensor(tokens_and_cells(micro_batches), device=self.accelerator.device)
        tokens, cells = self.accelerator.reduce(counted, reduction="sum").tolist()
        self._metrics["train"]["update/padding"].append(1 - tokens / cells)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """TRL's, and for old and reference log-probs, the only ones with a `batch_size`, in chunks by plan."""
        forward = super()._get_per_token_logps_and_entropies
        if batch_size is None:
            return forward(model, input_ids, attention_mask, logits_to_keep, **kwargs)

        def score(part: Batch) -> torch.Tensor:
            ids = torch.cat([part.pop("prompt_ids"), part.pop("completion_ids")], dim=1)
            reply_mask = part.pop("completion_mask")
            mask = torch.cat([part.pop("prompt_mask"), reply_mask], dim=1)
            return forward(model, ids, mask, reply_mask.shape[1], **part)[0]

        batch = {
            "prompt_ids": input_ids[:, :-logits_to_keep],
            "prompt_mask": attention_mask[:, :-logits_to_keep],
            "completion_ids": input_ids[:, -logits_to_keep:],
            "completion_mask": attention_mask[:, -logits_to_keep:],
            **{name: value for name, value in kwargs.items() if value is not None},
        }
        return score_in_chunks(score, batch, self._chunks, self.pad_to_multiple_of), None, None
