"""Policy of a vision-language model of transformers: batched, left-padded, reproducible token by token.

Savings that do not change the sampled tokens:

* equal prompts (the G votes of a game) are prefilled once and their cache is repeated for each sample;
* a prompt reuses the cached prefix of the last prompt of its game and view (`kv_cache`);
* every distinct image is preprocessed and encoded once per rollout, not once per turn;
* finished completions leave the batch.

Every turn has its own random generator, so its tokens do not depend on which other turns share the batch or the process
(in float32, up to rounding).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from transformers import Cache, PreTrainedModel, ProcessorMixin

from vision_zero.models.attention import attends_to_all
from vision_zero.rollout.image_store import (
    Features,
    ImageStore,
    ProcessedPrompt,
    chat_text,
    last_fields,
    look_images_up,
    process,
    store_of,
)
from vision_zero.rollout.kv_cache import Found, PrefixStore, joined, padded_left
from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.sampling import Sampler, Sampling
from vision_zero.rollout.stopping import STOP
from vision_zero.types import Completion

PROMPT_TOKENS = 2048
"""Of a completion, on average, above which fewer than `max_batch` are generated at once."""


@dataclass(frozen=True)
class _Row:
    """Distinct prompt and the indices of its requests. Prompts of one conversation mostly have a common prefix."""

    prompt: ProcessedPrompt
    image_key: str
    conversation: tuple[int, int]
    requests: list[int]


def prompt_of(processor: ProcessorMixin, request: TurnRequest) -> ProcessedPrompt:
    """The prompt with the image's placeholders expanded, as in training."""
    return process(processor, chat_text(processor, request.prompt.text), request.image)


def image_tokens(processor: ProcessorMixin, size: tuple[int, int]) -> int:
    """Tokens that an image of this width and height takes of a prompt, with those around it."""
    text = chat_text(processor, "")
    with_image = processor(text=[text], images=[[Image.new("RGB", size)]])["input_ids"][0]
    return len(with_image) - len(processor.tokenizer(text)["input_ids"]) + 1


def placeholder_ids(processor: ProcessorMixin, model: PreTrainedModel) -> list[int]:
    """Placeholder tokens of images and videos. A sampled one would crash the training forward."""
    config = model.config
    candidates = [*processor.image_token_ids, *processor.video_token_ids, config.image_token_id]
    candidates += [config.to_dict().get("video_token_id")]
    return sorted({token for token in candidates if token is not None})


def end_ids(processor: ProcessorMixin, model: PreTrainedModel) -> list[int]:
    """Tokens that end a completion: those of the model's generation config, and the tokenizer's own."""
    declared = model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return sorted({*declared, processor.tokenizer.eos_token_id})


def without_adapter_wrapper(model: PreTrainedModel) -> PreTrainedModel:
    """The vision-language model itself; LoRA layers stay in it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def right_aligned_mask(lengths: Sequence[int], width: int, device: torch.device) -> torch.Tensor:
    """[len(lengths), width], 1 for the last `lengths[r]` columns of row r."""
    columns = torch.arange(width, device=device)
    return (columns >= width - torch.tensor(lengths, device=device)[:, None]).long()


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Context without dropout and gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def positions_of(
    backbone: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, images_BT: Any, grids: torch.Tensor | None
) -> torch.Tensor:
    """Positions of whole rows: [B, T], or with patch grids [3, B, T], which place the tokens of `images_BT` in 2-D."""
    if grids is None:
        return (mask_BT.cumsum(-1) - 1).clamp(min=0)
    types = images_BT.int()
    return backbone.get_rope_index(ids_BT, mm_token_type_ids=types, image_grid_thw=grids, attention_mask=mask_BT)[0]


class TransformersPolicy:
    """Policy of `model`.

    `max_batch` is the number of completions generated at once; `reuse_prefixes` keeps the keys and values of one prompt
    per game and view during a rollout, if every layer of the model attends to all of a prompt. Counters over the
    policy's life: computed (`prefilled_tokens`) and cached (`reused_tokens`) tokens of prompts, and sampled tokens
    (`new_tokens`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
        *,
        max_batch: int = 256,
        reuse_prefixes: bool = True,
    ) -> None:
        self.model = model
        self.backbone = without_adapter_wrapper(model).model
        self.processor = processor
        self.sampling = sampling
        self.max_batch = max_batch
        self.images: ImageStore = store_of(processor)
        look_images_up(without_adapter_wrapper(model), self.images)
        self.reuse_prefixes = reuse_prefixes and attends_to_all(without_adapter_wrapper(model))
        self.prefilled_tokens = self.reused_tokens = self.new_tokens = 0
        self._prefixes = PrefixStore()
        self._features: dict[str, Features] = {}
        self._banned = placeholder_ids(processor, model)
        self._ends = end_ids(processor, model)

    def new_weights(self) -> None:
        """Clear what depends on the weights: image features and prompt caches."""
        self._features.clear()
        self._prefixes.clear()

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        completions: dict[int, Completion] = {}
        with evaluating(self.model), self.images.keeping(self._features):
            for rows in self._batches(requests):
                completions.update(self._generate(rows, requests))
        return [completions[index] for index in range(len(requests))]

    def _batches(self, requests: Sequence[TurnRequest]) -> Iterator[list[_Row]]:
        """Distinct prompts with their requests, in batches of at most `max_batch` completions and of their tokens."""
        by_prompt: dict[tuple[str, str], list[int]] = {}
        for index, request in enumerate(requests):
            by_prompt.setdefault((request.image.key, request.prompt.text), []).append(index)
        batch: list[_Row] = []
        size = tokens = 0
        for indices in by_prompt.values():
            request = requests[indices[0]]
            prompt = prompt_of(self.processor, request)
            n_tokens = len(prompt.ids)
            most = max(1, min(self.max_batch, self.max_batch * PROMPT_TOKENS // n_tokens))
            for start in range(0, len(indices), most):
                some = indices[start : start + most]
                tokens += len(some) * n_tokens
                if batch and (size + len(some) > self.max_batch or tokens > self.max_batch * PROMPT_TOKENS):
                    yield batch
                    batch, size, tokens = [], 0, len(some) * n_tokens
                batch.append(_Row(prompt, request.image.key, (request.table, request.game.index), some))
                size += len(some)
        if batch:
            yield batch

    def _prefill(self, rows: list[_Row]) -> tuple[Cache, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the tokens of each row's prompt that are not cached.

        Rows that reuse a prefix are computed apart from those that do not: a forward is as wide as the longest rest.
        Returns the cache, its mask [B, cached tokens], the last token's position [..., B, 1] and logits [B, V].
        """
        image_token = self.model.config.image_token_id
        found: list[Found] = [(None, 0)] * len(rows)
        if self.reuse_prefixes:
            found = [self._prefixes.find(row.image_key, row.prompt.ids, image_token) for row in rows]
        parts = [[n for n, (_, length) in enumerate(found) if bool(length) == reuses] for reuses in (False, True)]
        if not all(parts):
            return self._prefill_together(rows, found)
        caches, masks, positions, logits = zip(
            *(self._prefill_together([rows[n] for n in part], [found[n] for n in part]) for part in parts), strict=True
        )
        back = torch.tensor([*parts[0], *parts[1]], device=self.model.device).argsort()
        mask = torch.cat(padded_left(masks, dim=1))[back]
        return joined(caches, back), mask, torch.cat(positions, dim=-2)[..., back, :], torch.cat(logits)[back]

    def _prefill_together(
        self, rows: list[_Row], found: list[Found]
    ) -> tuple[Cache, torch.Tensor, torch.Tensor, torch.Tensor]:
        """`_prefill` of rows in one forward; row r reuses `found[r]`."""
        device = self.model.device
        reused = [length for _, length in found]
        cache = self._prefixes.cache(found, self.model.config.get_text_config().num_hidden_layers)

        # Rows are right-aligned, so the tokens still to compute are the last columns: [reused | pads and the rest].
        lengths = [len(row.prompt.ids) for row in rows]
        longest, rest = max(lengths), max(n - r for n, r in zip(lengths, reused, strict=True))
        pad = self.processor.tokenizer.pad_token_id
        ids_BL = torch.tensor([[pad] * (longest - len(row.prompt.ids)) + row.prompt.ids for row in rows], device=device)
        mask_BL = right_aligned_mask(lengths, longest, device)
        rest_mask = right_aligned_mask([n - r for n, r in zip(lengths, reused, strict=True)], rest, device)
        mask = torch.cat([right_aligned_mask(reused, max(reused), device), rest_mask], dim=1)
        grids = self.images.grids([row.prompt.image for row in rows], device)
        image_BL = (ids_BL == self.model.config.image_token_id) & mask_BL.bool()
        positions = positions_of(self.backbone, ids_BL, mask_BL, image_BL, grids)
        output = self.model(
            input_ids=ids_BL[:, -rest:],
            **({} if any(reused) else last_fields([row.prompt for row in rows], rest, device)),
            attention_mask=mask,
            position_ids=positions[..., -rest:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        if self.reuse_prefixes:
            conversations = [(row.image_key, row.conversation) for row in rows]
            self._prefixes.remember(conversations, [row.prompt.ids for row in rows], cache, mask)
        self.prefilled_tokens += sum(lengths) - sum(reused)
        self.reused_tokens += sum(reused)
        self.reused_tokens += sum(len(row.prompt.ids) * (len(row.requests) - 1) for row in rows)
        return cache, mask, positions[..., -1:], output.logits[:, -1]

    def _generate(self, rows: list[_Row], requests: Sequence[TurnRequest]) -> dict[int, Completion]:
        """Completions of all rows by request: each row is prefilled once, then all are sampled together."""
        cache, mask, position, logits_BV = self._prefill(rows)
        order = [index for row in rows for index in row.requests]
        if len(rows) < len(order):
            row_of = torch.tensor([number for number, row in enumerate(rows) for _ in row.requests], device=mask.device)
            cache.batch_select_indices(row_of)
            mask, position, logits_BV = mask[row_of], position[..., row_of, :], logits_BV[row_of]
        sampler = Sampler([requests[index] for index in order], self.sampling, self._banned, self._ends)
        while True:
            STOP.check()
            tokens_B = sampler.draw(logits_BV)
            alive = sampler.drop_finished()
            if not alive:
                break
            if len(alive) < len(mask):
                cache.batch_select_indices(torch.tensor(alive, device=mask.device))
                mask, position, tokens_B = mask[alive], position[..., alive, :], tokens_B[alive]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            position = position + 1
            logits_BV = self.model(
                input_ids=tokens_B[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        prompts = [row.prompt.ids for row in rows for _ in row.requests]
        completions = {}
        for slot, index in enumerate(order):
            ids, logprobs = sampler.tokens[slot], sampler.logprobs[slot]
            self.new_tokens += len(ids)
            text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
            completions[index] = Completion(text, tuple(prompts[slot]), tuple(ids), tuple(logprobs))
        return completions
