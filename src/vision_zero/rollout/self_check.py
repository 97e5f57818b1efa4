"""A model is tried before anything long: prompts of one game through processor, player and plain transformers.

What a player samples is what is trained on and what an evaluation reports. A model whose player is another model than
its own forward, as fields or features do not reach it, is refused by measurement: log-probabilities as sampled against
one forward of the whole sequence over the plain processor's fields.
"""

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
from vision_zero.rollout.image_store import store_of
from vision_zero.rollout.policy import NotFiniteError, Policy, PromptTooLongError, TokenLimits, TurnRequest
from vision_zero.rollout.vllm.client import VLLMServerError
from vision_zero.types import Completion, Game

TOKENS = 16
"""Sampled per reply, no more and no fewer, so that processes that share a model stay in step."""
FLOAT32_LIMIT, HALF_LIMIT = 1e-3, 0.05
HALF = (True, torch.float16, torch.bfloat16, "torch.float16", "torch.bfloat16")
Fields = Mapping[str, torch.Tensor]


class SelfCheckError(ValueError):
    """A model that would be played otherwise than it is trained, or not at all."""


def out_of_memory(error: Exception) -> bool:
    """Whether a GPU or the machine has no more; some libraries raise a RuntimeError."""
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the machine's allocator, NCCL, cuBLAS
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(one in str(error) for one in words)


def gap_limit(model: torch.nn.Module, *precisions: object) -> float:
    """The largest mean gap that is rounding, by the weights' and other `precisions` (autocast's, an engine's)."""
    # Not torch.get_float32_matmul_precision(), which raises an error after `--tf32 true`.
    coarse = torch.cuda.is_available() and torch.backends.cuda.matmul.fp32_precision == "tf32"
    weights = {parameter.dtype for parameter in model.parameters()}
    return HALF_LIMIT if coarse or any(one in HALF for one in (*weights, *precisions)) else FLOAT32_LIMIT


def dropout_of(model: torch.nn.Module, apart: torch.nn.Module | None = None) -> str | None:
    """The first dropout that is not 0, as NAME=VALUE, but for those of `apart`, a module that never trains."""
    for name, module in model.named_modules():
        values = {} if apart is not None and module in apart.modules() else vars(module)
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and values:
            values = {"dropout": module.p}
        for attribute, value in values.items():
            if "drop" in attribute and type(value) in (int, float) and value > 0:
                return f"{name}.{attribute}={value}"
    return None


def check_files(processor: ProcessorMixin, model: PreTrainedModel, name: str) -> None:
    """Vocabulary of a model, whose weights may be on the meta device. Raises SelfCheckError."""
    last, rows = max(processor.tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if not rows // 2 <= last + 1 <= rows:
        raise SelfCheckError(
            f"model {name}: its tokenizer has ids up to {last}, its weights {rows} embeddings; add the tokenizer files "
            "that belong to this model"
        )


def first_requests(game: Game, template: str) -> list[TurnRequest]:
    """A civilian's first clue and a vote of `game`, its other clues made up; its images are opened."""
    images, requests = open_images([game]), list[TurnRequest]()
    while turn := open_turns(game)[0]:
        prompt, limits = render(game, turn, template), TokenLimits(TOKENS, TOKENS)
        if prompt.view == "civilian" and (not requests or turn.stage == "decision"):
            image = images[game.index, prompt.view]
            requests.append(TurnRequest(game, turn, prompt, image, turn_seed(game.seed, turn), limits))
        if turn.stage == "decision":
            break
        game = answer(game, turn, Completion(f"\\boxed{{a thing, number {turn.seat}}}"))
    return requests


def plain_inputs(processor: ProcessorMixin, image: Any, text: str) -> dict[str, torch.Tensor]:
    """All fields that the processor itself makes of a prompt; a copy of an image is none that is memoized."""
    content = [{"type": "image", "image": image.copy()}, {"type": "text", "text": text}]
    asked = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    return dict(processor.apply_chat_template([{"role": "user", "content": content}], **asked))


def plain_logps(model: PreTrainedModel, inputs: Fields, token_ids: Sequence[int], temperature: float) -> torch.Tensor:
    """Log-probabilities of `token_ids` after one prompt, by the model's own forward of the whole sequence."""
    ids_1T = torch.tensor([list(token_ids)])
    whole = {name: value.to(model.device) for name, value in inputs.items()}
    for name, value in inputs.items():
        if value.shape == inputs["input_ids"].shape:
            tail = ids_1T if name == "input_ids" else torch.full_like(ids_1T, name == "attention_mask")
            whole[name] = torch.cat([value, tail], dim=1).to(model.device)
    with torch.no_grad():
        logits_TV: torch.Tensor = (
            model(**whole, use_cache=False, logits_to_keep=ids_1T.shape[1] + 1).logits[0, :-1].cpu()
        )
    return (logits_TV.float() / (temperature or 1.0)).log_softmax(-1).gather(1, ids_1T.T)[:, 0]


def check_replies(replies: Sequence[Completion], inputs: Sequence[Fields], logps: torch.Tensor, limit: float) -> float:
    """The mean gap of all log-probs to `logps`. Raises ValueError above `limit` (or NaN), or for other prompts."""
    for said, fields in zip(replies, inputs, strict=True):
        if list(said.prompt_ids) != (ids := fields["input_ids"][0].tolist()):
            raise ValueError(
                f"its player reads a prompt as {len(said.prompt_ids)} tokens, apply_chat_template as {len(ids)}"
            )
    gap = float((torch.tensor([one for said in replies for one in said.logprobs]) - logps).abs().mean())
    if not gap <= limit:
        raise ValueError(
            f"log-probs as sampled are {gap:.3g} per token from its own forward's, at most {limit:g} allowed"
        )
    return gap


@contextmanager
def nothing_changed(processor: ProcessorMixin) -> Iterator[None]:
    """Context that leaves random generators and the images as they were: a run with a check is one without."""
    python, numpy, images = random.getstate(), np.random.get_state(), store_of(processor)  # noqa: NPY002
    preprocessed = images.preprocessed
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        images.preprocessed = preprocessed
        images.clear()


def check_player(
    name: str,
    playing: Callable[[], AbstractContextManager[Policy]],
    plain: Callable[[], AbstractContextManager[PreTrainedModel]],
    processor: ProcessorMixin,
    requests: Sequence[TurnRequest],
    temperature: float,
    limit: float,
) -> str:
    """Have the policy of `playing` answer `requests` one by one, and the model of `plain` score what it said.

    Returns a line for the user. Raises SelfCheckError, after all forwards that other processes take part in, and what
    a policy raises for a prompt that does not fit, or for a server.
    """
    try:
        inputs = [plain_inputs(processor, request.image, request.prompt.text) for request in requests]
        with nothing_changed(processor):
            with playing() as policy:
                replies = [policy.answer([request])[0] for request in requests]
            with plain() as model:
                logps = [
                    plain_logps(model, fields, said.token_ids, temperature)
                    for said, fields in zip(replies, inputs, strict=True)
                ]
        gap = check_replies(replies, inputs, torch.cat(logps), limit)
    except (PromptTooLongError, NotFiniteError, VLLMServerError):
        raise
    except Exception as error:  # whatever the code of a family that is not known here may raise
        if out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SelfCheckError(
            f"model {name} would not be played as it is trained and judged: {reason}. Give a model of another family, "
            "or repair its files; docs/training.md names families that are right"
        ) from error
    lengths = " and ".join(str(len(said.prompt_ids)) for said in replies)
    return f"self-check: prompts of {lengths} tokens as apply_chat_template has them; gap of log-probs {gap:.1e}"
