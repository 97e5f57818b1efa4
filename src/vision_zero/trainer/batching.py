"""Micro-batches of samples of similar length, each trimmed to its own longest prompt and completion.

TRL pads every row of a batch to the longest prompt (left) and the longest completion (right) of the whole batch, and
every forward computes those columns too. What padding does not cost is exactness: loss, gradient and metrics are sums
over rows or tokens, so neither the order of the rows nor the empty columns change them, up to rounding.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedModel

from vision_zero.trainer.samples import TrainingSample

Batch = dict[str, Any]
"""Tensors by name, rows first; lists have an entry per row."""

OVER_PROMPT = ("prompt_ids", "prompt_mask")
OVER_COMPLETION = (
    "completion_ids",
    "completion_mask",
    "tool_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
)
OVER_BOTH = ("token_type_ids", "mm_token_type_ids")
LEAST_COMPLETION_COLUMNS = 2
"""TRL takes a tensor of one column for values per sequence, and would leave the mask out of their mean."""
PATCHES_PER_IMAGE_TOKEN = 4
"""Vision towers see 2 x 2 patches per image token (Qwen2.5-VL's merger, InternVL's pixel shuffle)."""


# ----------------------------------------------------------------------------------------------------- order of samples


def order_by_cost(
    samples: Sequence[TrainingSample], n_micro_batches: int, n_updates: int, image_cost: float
) -> list[int]:
    """Numbers of `samples` in the order in which they are cut into micro-batches, none moved to another update.

    Samples of one game share images, which a micro-batch encodes once; samples of one length need no padding. Which of
    the two saves more depends on the model and the images, so orders between both are compared: games by their longest
    sample, then in windows of 1, 2, 4 ... micro-batches all samples by length, the longest first. The cheapest wins by

        sum over micro-batches of  rows * (longest prompt + longest completion) + distinct images * image_cost

    with `image_cost` in tokens of the language model.
    """
    size = len(samples) // n_micro_batches
    per_update = len(samples) // n_updates
    order = []
    for start in range(0, len(samples), per_update):
        candidates = _orders(samples, range(start, start + per_update), size)
        costs = [_cost(samples, candidate, size, image_cost) for candidate in candidates]
        order += candidates[costs.index(min(costs))]
    return order


def order_by_game(samples: Sequence[TrainingSample], n_updates: int) -> list[int]:
    """Numbers of `samples` by game, image and prompt, none moved to another update: for samples that share prefixes."""
    per_update = len(samples) // n_updates
    order = []
    for start in range(0, len(samples), per_update):
        order += _by_game(samples, range(start, start + per_update), by_image=True)
    return order


def _by_game(samples: Sequence[TrainingSample], numbers: Sequence[int], *, by_image: bool = False) -> list[int]:
    """Games by their longest sample, its samples by length, longest first; `by_image`: by image and prompt before."""
    longest: dict[int, int] = {}
    for number in numbers:
        game = samples[number].game
        longest[game] = max(longest.get(game, 0), samples[number].n_tokens)

    def place(number: int) -> tuple[object, ...]:
        sample = samples[number]
        alike = (sample.image.key, sample.prompt_ids) if by_image else ()
        return (-longest[sample.game], sample.game, *alike, -sample.n_tokens)

    return sorted(numbers, key=place)


def _orders(samples: Sequence[TrainingSample], numbers: Sequence[int], size: int) -> list[list[int]]:
    by_game = _by_game(samples, numbers)
    orders, window = [by_game], size
    while window < 2 * len(by_game):
        blocks = [by_game[start : start + window] for start in range(0, len(by_game), window)]
        orders.append([number for block in blocks for number in sorted(block, key=lambda one: -samples[one].n_tokens)])
        window *= 2
    return orders


def _cost(samples: Sequence[TrainingSample], order: Sequence[int], size: int, image_cost: float) -> float:
    cost = 0.0
    for start in range(0, len(order), size):
        some = [samples[number] for number in order[start : start + size]]
        width = max(len(sample.prompt_ids) for sample in some) + max(len(sample.token_ids) for sample in some)
        cost += len(some) * width + image_cost * len({sample.image.key for sample in some})
    return cost


def image_cost(model: PreTrainedModel, image_tokens: int) -> float:
    """Cost of encoding an image in tokens of the language model, by the number of weights that are multiplied."""
    tower = n_weights(model.get_encoder("image").parameters())
    return PATCHES_PER_IMAGE_TOKEN * image_tokens * tower / weights_per_token(model)


def weights_per_token(model: PreTrainedModel) -> int:
    """Weights of the language model that a token is multiplied with, its head left out."""
    decoder = model.get_decoder()
    return n_weights(decoder.parameters()) - n_weights(decoder.get_input_embeddings().parameters())


def n_weights(parameters: Iterable[torch.nn.Parameter]) -> int:
    # Under ZeRO-3 a parameter is empty here and says elsewhere how large it is.
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)


# ---------------------------------------------------------------------------------------------------- split and trimmed


def take_rows(batch: Batch, numbers: Sequence[int]) -> Batch:
    """The rows `numbers` of a batch; what is of the whole batch stays."""
    taken: Batch = {}
    for name, value in batch.items():
        if isinstance(value, list):
            taken[name] = [value[number] for number in numbers]
        elif isinstance(value, torch.Tensor) and value.ndim:
            taken[name] = value[torch.tensor(numbers, device=value.device)]
        else:
            taken[name] = value
    return taken


def trim(batch: Batch, multiple: int | None = None) -> Batch:
    """Without the columns that are padding in every row: on the left of prompts, on the right of completions.

    As many columns stay as TRL's `pad_to_multiple_of` asks for.
    """
    prompt = _columns(batch["prompt_mask"], 1, multiple)
    completion = _columns(batch["completion_mask"], LEAST_COMPLETION_COLUMNS, multiple)
    n_prompt, n_completion = batch["prompt_mask"].shape[1], batch["completion_mask"].shape[1]
    trimmed = dict(batch)
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor):
            continue
        if name in OVER_PROMPT:
            trimmed[name] = value[:, n_prompt - prompt :]
        elif name in OVER_COMPLETION and value.shape[1] == n_completion:  # an importance ratio may be one per row
            trimmed[name] = value[:, :completion]
        elif name in OVER_BOTH:
            trimmed[name] = value[:, n_prompt - prompt : n_prompt + completion]
    return trimmed


def _columns(mask: torch.Tensor, least: int, multiple: int | None) -> int:
    columns = max(least, int(mask.sum(dim=1).max()))
    if multiple:
        columns = -(-columns // multiple) * multiple
    return min(columns, mask.shape[1])


def real_and_padded_tokens(micro_batches: Sequence[Batch]) -> tuple[float, float]:
    """Tokens of the rows that train, and rows times columns: all that is computed. A dummy sample has no real token."""
    real = padded = 0.0
    for batch in micro_batches:
        lengths_B = batch["prompt_mask"].sum(dim=1) + batch["completion_mask"].sum(dim=1)
        trains_B = (batch["completion_mask"] * batch.get("tool_mask", 1)).any(dim=1)
        real += float((lengths_B * trains_B).sum())
        padded += batch["prompt_mask"].numel() + batch["completion_mask"].numel()
    return real, padded


# ------------------------------------------------------------------------------------------- log-probs without gradient


def split_into_chunks(samples: Sequence[TrainingSample], order: Sequence[int], max_tokens: int) -> list[list[int]]:
    """`order` cut into runs of as many samples as have at most `max_tokens` tokens with padding, at least one."""
    borders, prompt, completion = [0], 0, 0
    for place, number in enumerate(order):
        prompt = max(prompt, len(samples[number].prompt_ids))
        completion = max(completion, len(samples[number].token_ids))
        if place > borders[-1] and (place + 1 - borders[-1]) * (prompt + completion) > max_tokens:
            borders.append(place)
            prompt, completion = len(samples[number].prompt_ids), len(samples[number].token_ids)
    return [list(order[start:end]) for start, end in pairwise([*borders, len(order)])]


def score_in_chunks(
    score: Callable[[Batch], torch.Tensor], batch: Batch, parts: Sequence[Sequence[int]], multiple: int | None = None
) -> torch.Tensor:
    """Log-probs [rows, longest completion] of a batch that is scored part by part, each trimmed; 0 where trimmed."""
    logps_BT = torch.zeros(0)
    for numbers in parts:
        part = trim(take_rows(batch, numbers), multiple)
        some = score(part)
        if not len(logps_BT):
            logps_BT = some.new_zeros(batch["completion_mask"].shape)
        logps_BT[torch.tensor(numbers, device=some.device), : some.shape[1]] = some
    return logps_BT
