"""Forwards without padding (`batching`) and without computing a common prefix twice (`prefix_sharing`).

TRL's forward of whole rows stays what it is; a `PackedForward` decides which rows it sees together, how far they are
trimmed, and whether rows that begin alike are computed as one. Log-probabilities, loss and gradient are unchanged.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn.functional import pad
from tqdm import tqdm
from transformers import PreTrainedModel
from trl.trainer.utils import split_tensor_dict

from vision_zero.config.options import IterativeSPOConfig
from vision_zero.rollout.image_store import ImageStore
from vision_zero.rollout.transformers_policy import without_adapter_wrapper
from vision_zero.trainer.batching import (
    Batch,
    image_cost,
    order_by_cost,
    order_by_game,
    real_and_padded_tokens,
    score_in_chunks,
    split_into_chunks,
    take_rows,
    trim,
)
from vision_zero.trainer.prefix_sharing import (
    Layout,
    gather_completions,
    pair_cost,
    real_and_padded_shared_tokens,
    shared_inputs,
    shared_layout,
    unsupported_reason,
)
from vision_zero.trainer.samples import TrainingSample

LogProbs = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Of the completions [B, n_completion]: log-probabilities, entropies if asked for, a router's auxiliary loss."""


class PackedForward:
    """Plans the forwards of one batch after another. Batches carry the numbers of `images` in place of pixels.

    `has_aux_loss`: the loss has a router's auxiliary term. Samples share their prefixes if the options ask for it and
    the model can do it; if it cannot, that is said.
    """

    def __init__(
        self,
        args: IterativeSPOConfig,
        model: PreTrainedModel,
        accelerator: Accelerator,
        images: ImageStore,
        *,
        has_aux_loss: bool,
    ) -> None:
        self.args, self.accelerator, self.images = args, accelerator, images
        self.model = self._inner(model)
        self.order: list[int] = []
        self.chunks: list[list[int]] = []
        reason = unsupported_reason(self.model)
        if reason is None and has_aux_loss:
            reason = "a router's auxiliary loss counts every row by itself"
        self.shares_prefixes = args.share_prefixes and reason is None
        if self.shares_prefixes:
            self._pair_cost = pair_cost(self.model, accelerator.device)
        elif args.share_prefixes and accelerator.is_main_process:
            tqdm.write(f"share_prefixes is off: {reason}", file=sys.stderr)

    def _inner(self, model: Any) -> PreTrainedModel:
        return without_adapter_wrapper(self.accelerator.unwrap_model(model))

    def plan_batches(self, samples: Sequence[TrainingSample]) -> None:
        """Decide in which order `samples`, the next batch, are cut into micro-batches and scored."""
        n_micro_batches, n_updates = self.args.steps_per_generation, self.args.updates_per_iteration
        if self.shares_prefixes:
            self.order = order_by_game(samples, n_updates)
        else:
            image_tokens = samples[0].prompt_ids.count(self.model.config.image_token_id)
            cost = 0.0 if self.args.freeze_vision else image_cost(self.model, image_tokens)
            self.order = order_by_cost(samples, n_micro_batches, n_updates, cost)
        self.chunks = split_into_chunks(samples, self.order, self.args.logprob_tokens)
        # Every forward of ZeRO-3 waits for the other processes, so all of them need equally many.
        most = max(gather_object([len(self.chunks)]))
        self.chunks += [self.chunks[-1]] * (most - len(self.chunks))

    def split_micro_batches(self, batch: Batch) -> list[Batch]:
        """The planned batch in micro-batches of equally many rows, each trimmed."""
        parts = split_tensor_dict(take_rows(batch, self.order), self.args.steps_per_generation)
        return [trim(part, self.args.pad_to_multiple_of) for part in parts]

    def padding_metrics(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        """Shares, over all processes: of what a forward computes, padding; of the real tokens, those it need not."""
        real, padded = real_and_padded_tokens(micro_batches)
        computed, padded_computed = real, padded
        if self.shares_prefixes:
            computed = padded_computed = 0.0
            for batch in micro_batches:
                ids, mask = (
                    torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1) for what in ("ids", "mask")
                )
                layout = self._layout(ids, mask, batch["completion_ids"].shape[1], batch["pixel_values"])
                real_here, padded_here = real_and_padded_shared_tokens(layout, batch)
                computed, padded_computed = computed + real_here, padded_computed + padded_here
        counted = torch.tensor([real, computed, padded_computed], device=self.accelerator.device)
        real, computed, padded_computed = self.accelerator.reduce(counted, reduction="sum").tolist()
        shared = 1 - computed / real if real else 0.0  # every completion may be masked
        return {"update/padding": 1 - computed / padded_computed, "update/shared": shared}

    def logps_and_entropies(
        self,
        whole_rows: Callable[..., LogProbs],
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> LogProbs:
        """`whole_rows` is TRL's forward. Old and reference log-probs, which alone have a `batch_size`, go in chunks."""
        forward = self._forward_shared if self.shares_prefixes else whole_rows
        if batch_size is None:
            return forward(model, input_ids, attention_mask, logits_to_keep, **kwargs)

        def score(part: Batch) -> torch.Tensor:
            ids = torch.cat([part.pop("prompt_ids"), part.pop("completion_ids")], dim=1)
            completion_mask = part.pop("completion_mask")
            mask = torch.cat([part.pop("prompt_mask"), completion_mask], dim=1)
            return forward(model, ids, mask, completion_mask.shape[1], **part)[0]

        batch = {
            "prompt_ids": input_ids[:, :-logits_to_keep],
            "prompt_mask": attention_mask[:, :-logits_to_keep],
            "completion_ids": input_ids[:, -logits_to_keep:],
            "completion_mask": attention_mask[:, -logits_to_keep:],
            **{name: value for name, value in kwargs.items() if value is not None},
        }
        return score_in_chunks(score, batch, self.chunks, self.args.pad_to_multiple_of), None, None

    def _layout(
        self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_completion: int, image_numbers: torch.Tensor
    ) -> Layout:
        """The shared rows of a batch, for a forward and for the metrics of it."""
        ids, mask = ids_BT.cpu().numpy(), mask_BT.cpu().numpy()
        image_token = self.model.config.image_token_id
        shown = image_numbers.flatten().tolist()
        return shared_layout(ids, mask, n_completion, shown, image_token, self._pair_cost)

    def _forward_shared(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> LogProbs:
        """TRL's forward of whole rows, their common prefixes computed once."""
        if compute_aux_loss:
            raise RuntimeError("a router's auxiliary loss was asked for of rows that share their prefixes")
        layout = self._layout(input_ids, attention_mask, logits_to_keep, fields["pixel_values"])
        grids = self.images.grids(fields["pixel_values"].flatten().tolist(), input_ids.device)
        inputs = shared_inputs(self._inner(model), layout, input_ids, attention_mask, logits_to_keep, fields, grids)
        with self.accelerator.autocast():
            outputs = model(**inputs, fused_lm_head=True)

        def by_row(values: torch.Tensor) -> torch.Tensor:
            # TRL's head has no value for the first token.
            return gather_completions(pad(values, (1, 0)), layout, attention_mask, logits_to_keep)

        return by_row(outputs.log_probs), by_row(outputs.entropy) if compute_entropy else None, None
