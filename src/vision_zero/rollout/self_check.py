"""A model is tried before anything long: one game's prompts through processor, player and plain transformers.

What a player samples is what is trained on, and what an evaluation reports. So a model whose player is another model
than its own forward (fields or features that do not reach it, another prompt, other weights in an engine) is refused
here, by measurement: the log-probabilities as sampled against one plain forward over the plain processor's fields.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from vision_zero.game.prompts import render
from vision_zero.game.spy_game import answer, open_turns, turn_seed
from vision_zero.rollout.game_images import open_images
from vision_zero.rollout.policy import NotFiniteError, Policy, PromptTooLongError, TokenLimits, TurnRequest
from vision_zero.rollout.transformers_policy import memoize_images, without_adapter_wrapper
from vision_zero.rollout.vllm.client import VLLMServerError
from vision_zero.types import Completion, Game

TOKENS = 16
"""Sampled per reply, at least and at most: processes that share a model stay in step."""
FLOAT32_LIMIT, HALF_LIMIT = 1e-3, 0.05
REACH_THE_PLAYER = {"input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids"}
"""Fields of a processor that the policies and the training forward know what to do with."""
IMAGE_OUTPUTS = {"last_hidden_state", "pooler_output", "hidden_states", "attentions"}
ANOTHER = "give another model; docs/rollouts.md says which families are known to be right"


class SelfCheckError(ValueError):
    """A model that would be played otherwise than it is trained, or not at all."""


def gap_limit(model: torch.nn.Module, *precisions: object) -> float:
    """The largest mean |log-prob as sampled - log-prob of a forward|: it depends on the coarsest number computed with.

    `precisions`: of autocast and of an engine, beside that of the weights; True stands for 16 bits.
    """
    half = (True, torch.float16, torch.bfloat16, "float16", "bfloat16", "torch.float16", "torch.bfloat16")
    coarse = torch.cuda.is_available() and torch.get_float32_matmul_precision() != "highest"  # TF32
    weights = {parameter.dtype for parameter in model.parameters()}
    return HALF_LIMIT if coarse or any(one in half for one in (*weights, *precisions)) else FLOAT32_LIMIT


def dropout_of(model: torch.nn.Module, apart: torch.nn.Module | None = None) -> str | None:
    """The first dropout of `model` that is not 0, as NAME=VALUE; modules of `apart`, which never trains, left out."""
    skipped = set() if apart is None else set(apart.modules())
    for name, module in model.named_modules():
        values = dict(vars(module)) if module not in skipped else {}
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            values["dropout"] = values.get("p")
        for attribute, value in values.items():
            if "drop" in attribute and isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
                return f"{name}.{attribute}={value}"
    return None


def check_files(processor: ProcessorMixin, model: PreTrainedModel, name: str) -> None:
    """Chat template and vocabulary of a model, whose weights may be on the meta device. Raises SelfCheckError."""
    if not processor.chat_template:
        raise SelfCheckError(
            f"model {name} has no chat template, so no prompt can be made for it: add its chat_template.jinja, or "
            "give its instruct version"
        )
    largest = max(processor.tokenizer.get_vocab().values())
    rows = model.get_input_embeddings().num_embeddings
    if not rows // 2 <= largest + 1 <= rows:
        raise SelfCheckError(
            f"model {name}: its tokenizer has ids up to {largest}, its weights have {rows} embeddings: the tokenizer "
            "is not this model's; add the tokenizer files that belong to it"
        )


def first_requests(game: Game, template: str) -> list[TurnRequest]:
    """A civilian's first clue and a vote of `game`, its other clues made up; images are opened."""
    images, requests = open_images([game]), []
    while True:
        turn = open_turns(game)[0]
        prompt = render(game, turn, template)
        if prompt.view == "civilian" and (not requests or turn.stage == "decision"):
            image, limits = images[game.index, prompt.view], TokenLimits(TOKENS, TOKENS)
            requests.append(TurnRequest(game, turn, prompt, image, turn_seed(game.seed, turn), limits))
        if turn.stage == "decision":
            return requests
        game = answer(game, turn, Completion(f"\\boxed{{a thing, number {turn.seat}}}"))


def plain_inputs(processor: ProcessorMixin, request: TurnRequest) -> dict[str, torch.Tensor]:
    """All fields that the processor itself makes of a prompt."""
    content = [{"type": "image", "image": request.image.copy()}, {"type": "text", "text": request.prompt.text}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(inputs)


def plain_logps(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], token_ids: Sequence[int], temperature: float
) -> torch.Tensor:
    """Log-probabilities of `token_ids` after one prompt, by the model's own forward of the whole sequence."""
    n = len(token_ids)
    shape = inputs["input_ids"].shape
    whole = {name: value.to(model.device) for name, value in inputs.items()}
    for name, value in inputs.items():
        if value.shape == shape:
            tail = value.new_full((1, n), int(name == "attention_mask"))
            if name == "input_ids":
                tail = torch.tensor([list(token_ids)])
            whole[name] = torch.cat([value, tail], dim=1).to(model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits_TV = model(**whole, use_cache=False, logits_to_keep=n + 1).logits[0, :-1].float()
    finally:
        model.train(was_training)
    logps_TV = (logits_TV / (temperature or 1.0)).log_softmax(-1).cpu()
    return logps_TV.gather(1, torch.tensor(token_ids)[:, None])[:, 0]


def check_image_features(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> None:
    """Fields and image features that would not reach a player. Raises SelfCheckError."""
    name = type(without_adapter_wrapper(model)).__name__
    if more := sorted(inputs.keys() - REACH_THE_PLAYER):
        raise SelfCheckError(
            f"{name} needs {', '.join(more)}, which players do not get: it would be played as another model; " + ANOTHER
        )
    fields = {key: inputs[key].to(model.device) for key in ("pixel_values", "image_grid_thw") if key in inputs}
    with torch.no_grad():
        output = without_adapter_wrapper(model).model.get_image_features(**fields)
    if more := sorted(key for key, value in output.items() if value is not None and key not in IMAGE_OUTPUTS):
        raise SelfCheckError(
            f"{name} has {', '.join(more)} beside its image features, which players do not get: it would be played as "
            "another model; " + ANOTHER
        )
    n_features = sum(feature.shape[:-1].numel() for feature in output.pooler_output)
    n_tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
    if not n_tokens or n_tokens != n_features:
        raise SelfCheckError(
            f"{name}: a prompt has {n_tokens} image tokens for {n_features} image features; its processor files are "
            "not this model's, or its chat template leaves the image out"
        )


def check_ids(prompt_ids: Sequence[int], inputs: Mapping[str, torch.Tensor], player: str) -> None:
    """Raises SelfCheckError for a prompt that is read otherwise than the processor makes it."""
    ids = inputs["input_ids"][0].tolist()
    if list(prompt_ids) != ids:
        raise SelfCheckError(
            f"{player} reads a prompt as {len(prompt_ids)} tokens where the processor's apply_chat_template makes "
            f"{len(ids)}, or others: chat template, tokenizer and image processor must be those of one model"
        )


def check_gap(sampled: Sequence[float], plain: torch.Tensor, limit: float, player: str) -> float:
    """The mean gap. Raises SelfCheckError above `limit`, and for NaN."""
    gap = float((torch.tensor(sampled, dtype=torch.float32) - plain).abs().mean())
    if not gap <= limit:
        raise SelfCheckError(
            f"{player} samples another policy than the model's own forward: their log-probabilities are {gap:.3g} apart "
            f"per token (at most {limit:g}), so what is played would not be what is trained or judged; " + ANOTHER
        )
    return gap


@contextmanager
def nothing_changed(processor: ProcessorMixin) -> Iterator[None]:
    """Context that leaves random generators and the memo of images as they were: a run with a check is one without."""
    python, numpy, memo = random.getstate(), np.random.get_state(), memoize_images(processor)
    preprocessed = memo.preprocessed
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        memo.preprocessed = preprocessed
        memo.clear()


def check_player(
    playing: Callable[[], AbstractContextManager[Policy]],
    plain: Callable[[], AbstractContextManager[PreTrainedModel]],
    processor: ProcessorMixin,
    requests: Sequence[TurnRequest],
    temperature: float,
    limit: float,
) -> str:
    """Have the policy of `playing` answer `requests` one by one, and the model of `plain` score what it said.

    Returns a line for the user. Raises SelfCheckError, after all forwards that other processes may take part in, and
    what a policy raises for a prompt that does not fit.
    """
    inputs = [plain_inputs(processor, request) for request in requests]
    with nothing_changed(processor):
        with plain() as model:
            check_image_features(model, inputs[0])
        try:
            with playing() as policy:
                completions = [policy.answer([request])[0] for request in requests]
        except (PromptTooLongError, NotFiniteError, VLLMServerError):
            raise
        except Exception as error:  # whatever a model that is not known here may raise
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            raise SelfCheckError(f"the model cannot be played: {type(error).__name__}: {reason}; {ANOTHER}") from error
        with plain() as model:
            answered = list(zip(completions, inputs, strict=True))
            logps = [plain_logps(model, fields, said.token_ids, temperature) for said, fields in answered]
    player = type(policy).__name__
    for completion, fields in answered:
        check_ids(completion.prompt_ids, fields, player)
    gap = max(check_gap(said.logprobs, plain, limit, player) for said, plain in zip(completions, logps, strict=True))
    lengths = " and ".join(str(len(said.prompt_ids)) for said in completions)
    return (
        f"self-check: prompts of {lengths} tokens are the processor's own, log-probs of {player} are {gap:.1e} from a "
        f"plain forward (at most {limit:g})"
    )
