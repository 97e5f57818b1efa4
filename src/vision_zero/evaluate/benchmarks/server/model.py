"""Chat requests in OpenAI's format, and a model's greedy answers to a batch of them."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from vision_zero.data.image_files import MAX_PIXELS, decode_bytes
from vision_zero.data.pairs import load_pairs
from vision_zero.game.parsing import closing_brace
from vision_zero.game.spy_game import deal
from vision_zero.models import check_model, load_processor, load_trained
from vision_zero.rollout.image_store import special_tokens
from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.self_check import TOKENS, check_files, check_player, first_requests, gap_limit
from vision_zero.rollout.transformers_policy import end_ids
from vision_zero.types import Completion, GameRules

NO_ANSWER = "\N{EMPTY SET}"
"""Text for an empty answer, which evaluation tools take for a failed request. No question has an option like it."""


@dataclass(frozen=True)
class ChatRequest:
    """Messages as chat templates take them, with image and text parts in their places, and the images in order."""

    messages: tuple[Mapping[str, Any], ...]
    images: tuple[Image.Image, ...]
    max_tokens: int


@dataclass(frozen=True)
class ChatAnswer:
    """The answer to a request. `truncated`: it had not ended at the request's `max_tokens`."""

    text: str
    truncated: bool
    prompt_tokens: int
    new_tokens: int


def read_request(body: Any, max_tokens: int) -> ChatRequest:
    """The request in a JSON body, for at most `max_tokens`. Raises ValueError by the name of the field."""
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
        raise ValueError("messages: must be a list with at least one message")
    if body.get("stream"):
        raise ValueError("stream: answers come whole")
    if body.get("n", 1) != 1:
        raise ValueError(f"n={body['n']}: one answer per request")
    if body.get("temperature"):
        raise ValueError(f"temperature={body['temperature']}: answers are greedy; ask with temperature 0")
    images: list[Image.Image] = []
    messages = tuple(_message(message, images) for message in body["messages"])
    asked = body.get("max_tokens") or body.get("max_completion_tokens") or max_tokens
    if not isinstance(asked, int) or asked < 1:
        raise ValueError(f"max_tokens={asked}: must be a whole number above 0")
    return ChatRequest(messages, tuple(images), min(asked, max_tokens))


def _message(message: Any, images: list[Image.Image]) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
        raise ValueError("messages: every message needs a role: system, user or assistant")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("messages: content must be a text or a list of parts")
    parts = [_part(part, images) for part in content]
    if message["role"] == "system":
        return {"role": "system", "content": "".join(part["text"] for part in parts if part["type"] == "text")}
    return {"role": message["role"], "content": parts}


def _part(part: Any, images: list[Image.Image]) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        address = part.get("image_url")
        images.append(_image(address.get("url") if isinstance(address, dict) else address))
        if sum(image.width * image.height for image in images) > MAX_PIXELS:
            raise ValueError(f"image_url: the images of a request have more than {MAX_PIXELS} pixels")
        return {"type": "image"}
    raise ValueError(f"messages: a part of type {kind!r} is neither text nor image_url")


def _image(url: Any) -> Image.Image:
    """The image of a data: URL. No other is opened: this server reads no file and no address for its clients."""
    if not isinstance(url, str) or not url.startswith("data:") or ";base64," not in url:
        raise ValueError("image_url: must be a data: URL in base64")
    try:
        return decode_bytes(base64.b64decode(url.split(";base64,", 1)[1], validate=True), "image_url")
    except binascii.Error as error:
        raise ValueError(f"image_url: not an image: {error}") from error


def boxed_answer(text: str) -> str:
    r"""The content of the last `\boxed{...}`, its braces balanced; without a box, the text up to a brace that closes
    nothing. The rule of `post_process` in VLMEvalKit's Qwen2VLChat, so that served and direct answers are read alike.
    """
    rest = text.split("\\boxed{")[-1]
    return rest[: closing_brace(rest, 0)]


@dataclass(frozen=True)
class ChatModel:
    r"""A model that answers batches of requests, greedily.

    `post_process`: the answer is the content of the last `\boxed{}`. `system_prompt`: for conversations without one.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    post_process: bool = False
    system_prompt: str | None = None

    @classmethod
    def load(
        cls, name: str, pixels: Sequence[int | None] = (), *, dtype: str = "auto", use_cpu: bool = False, **answers: Any
    ) -> Self:
        """The model that `load_trained` loads. `pixels`: least and most of an image; None is the model's own rule."""
        processor = load_processor(check_model(name), *pixels)
        model = load_trained(name, dtype=dtype, use_cpu=use_cpu)
        check_files(processor, model, name)
        return cls(model, processor, **answers)

    def prompt(self, request: ChatRequest) -> str:
        messages = list(request.messages)
        if self.system_prompt and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    @torch.no_grad()
    def generate(self, requests: Sequence[ChatRequest], **more: Any) -> tuple[Any, Any]:
        """The inputs of requests, and what transformers generates for them, greedily. All have images, or none has."""
        texts = [self.prompt(request) for request in requests]
        images = [list(request.images) for request in requests]
        inputs = self.processor(
            text=texts,
            images=images if images[0] else None,
            padding=True,
            return_tensors="pt",
            **special_tokens(self.processor, texts[0]),
        ).to(self.model.device)
        output = self.model.generate(
            **inputs,
            max_new_tokens=max(request.max_tokens for request in requests),
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            **more,
        )
        return inputs, output

    def check(self, name: str) -> str:
        requests = first_requests(deal(0, 0, load_pairs(["drawn:1"])[0], GameRules()), "auto")
        player, limit = _Player(replace(self, system_prompt=None)), gap_limit(self.model)
        contexts = (lambda: nullcontext(player), lambda: nullcontext(self.model))
        return check_player(name, *contexts, self.processor, requests, 1.0, limit)

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """One answer per request. All of them have images, or none has."""
        inputs, output = self.generate(requests)
        completions_BT = output.sequences[:, inputs["input_ids"].shape[1] :]
        n_prompts = inputs["attention_mask"].sum(-1).tolist()
        return [
            self._answer(completion, request.max_tokens, n_prompt)
            for completion, request, n_prompt in zip(completions_BT.tolist(), requests, n_prompts, strict=True)
        ]

    def _answer(self, completion: list[int], max_tokens: int, n_prompt: int) -> ChatAnswer:
        ends = end_ids(self.processor, self.model)
        end = next((place for place, token in enumerate(completion) if token in ends), None)
        kept = completion[: max_tokens if end is None else min(end, max_tokens)]
        text = self.processor.tokenizer.decode(kept, skip_special_tokens=True)
        text = (boxed_answer(text) if self.post_process else text).strip()
        return ChatAnswer(text or NO_ANSWER, end is None or end > max_tokens, n_prompt, len(kept))


@dataclass(frozen=True)
class _Player:
    served: ChatModel

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        (turn,) = requests
        content = [{"type": "image"}, {"type": "text", "text": turn.prompt.text}]
        request = ChatRequest(({"role": "user", "content": content},), (turn.image,), TOKENS)
        inputs, output = self.served.generate([request], min_new_tokens=TOKENS, output_logits=True)
        prompt = inputs["input_ids"][0].tolist()
        ids = output.sequences[0, len(prompt) :]
        logps = torch.cat(output.logits).float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
        return [Completion("", tuple(prompt), tuple(ids.tolist()), tuple(logps.tolist()))]
