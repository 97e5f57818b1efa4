"""A GRPOTrainer whose forwards compute no padding (`micro_batches`) and no common beginning twice (`shared_prefixes`).

Three of TRL's methods are wrapped, none is copied. A subclass calls `plan` before TRL scores its rows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.functional import pad
from tqdm import tqdm
from transformers import PreTrainedModel
from trl import GRPOTrainer

from vision_zero.rollout.image_cache import NumberedImages
from vision_zero.rollout.transformers_policy import without_adapter_wrapper
from vision_zero.trainer.batching import (
    Batch,
    chunks,
    cut,
    image_cost,
    order_rows,
    rows_of_games_together,
    score_in_chunks,
    tokens_and_cells,
)
from vision_zero.trainer.prefix_sharing import (
    Layout,
    of_rows,
    pair_cost,
    shared_inputs,
    shared_layout,
    shared_tokens_and_cells,
    why_not_shared,
)
from vision_zero.trainer.samples import Row


class TightBatches(GRPOTrainer):
    """`args` has `logprob_tokens`, `freeze_vision`, `share_prefixes` and `updates_per_iteration`.

    A subclass calls `decide_sharing` once it is built; its batches carry the numbers of `images`.
    """

    images: NumberedImages
    shares_prefixes: bool
    _pair_cost: float
    _order: list[int]
    _chunks: list[list[int]]

    def decide_sharing(self) -> None:
        """Rows share their beginnings if asked for and if the model can do it; if not, that is said."""
        reason = why_not_shared(self._inner(self.model))
        if reason is None and self.aux_loss_enabled:
            reason = "a router's auxiliary loss counts every row by itself"
        self.shares_prefixes = self.args.share_prefixes and reason is None
        self._pair_cost = pair_cost(self._inner(self.model)) if self.shares_prefixes else 0.0
        if self.args.share_prefixes and reason and self.accelerator.is_main_process:
            tqdm.write(f"share_prefixes is off: {reason}", file=sys.stderr)

    def _inner(self, model: Any) -> PreTrainedModel:
        return without_adapter_wrapper(self.accelerator.unwrap_model(model))

    def plan(self, rows: Sequence[Row]) -> None:
        """Decide in which order `rows`, the next batch, are cut into micro-batches and scored."""
        model = self._inner(self.model)
        n_micro_batches, n_updates = self.args.steps_per_generation, self.args.updates_per_iteration
        if self.shares_prefixes:
            self._order = rows_of_games_together(rows, n_updates)
        else:
            image_tokens = rows[0].prompt_ids.count(model.config.image_token_id)
            cost = 0.0 if self.args.freeze_vision else image_cost(model, image_tokens)
            self._order = order_rows(rows, n_micro_batches, n_updates, cost)
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
        tokens, cells = tokens_and_cells(micro_batches)
        computed, cells_computed = tokens, cells
        if self.shares_prefixes:
            computed = cells_computed = 0.0
            for batch in micro_batches:
                ids, mask = (
                    torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1) for what in ("ids", "mask")
                )
                layout = self._layout(ids, mask, batch["completion_ids"].shape[1], batch["pixel_values"])
                some, all_of_them = shared_tokens_and_cells(layout, batch)
                computed, cells_computed = computed + some, cells_computed + all_of_them
        counted = torch.tensor([tokens, computed, cells_computed], device=self.accelerator.device)
        tokens, computed, cells_computed = self.accelerator.reduce(counted, reduction="sum").tolist()
        self._metrics["train"]["update/padding"].append(1 - computed / cells_computed)
        self._metrics["train"]["update/shared"].append(1 - computed / tokens)

    def _layout(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_reply: int, stand_ins: torch.Tensor) -> Layout:
        """How rows share their beginnings, in a forward and in what is logged of it."""
        image_token = self._inner(self.model).config.image_token_id
        ids, mask = ids_BT.cpu().numpy(), mask_BT.cpu().numpy()
        return shared_layout(ids, mask, n_reply, self.images.shown(stand_ins), image_token, self._pair_cost)

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
        forward = self._forward_shared if self.shares_prefixes else super()._get_per_token_logps_and_entropies
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

    def _forward_shared(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """TRL's forward of whole rows, their common beginnings computed once."""
        if compute_aux_loss:
            raise RuntimeError("a router's auxiliary loss was asked for of rows that share their beginnings")
        inner = self._inner(model)
        layout = self._layout(input_ids, attention_mask, logits_to_keep, fields["pixel_values"])
        inputs = shared_inputs(inner, layout, input_ids, attention_mask, logits_to_keep, fields)
        with self.accelerator.autocast():
            outputs = model(**inputs, fused_lm_head=True)

        def by_row(values: torch.Tensor) -> torch.Tensor:
            # TRL's head has no value for the first token.
            return of_rows(pad(values, (1, 0)), layout, attention_mask, logits_to_keep)

        return by_row(outputs.log_probs), by_row(outputs.entropy) if compute_entropy else None, None
