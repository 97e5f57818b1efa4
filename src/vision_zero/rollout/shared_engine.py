"""Processes that share one engine (tensor parallelism): each of them must hand it the same turns in the same order.

So games advance in lock-step over the processes of a group: each call gathers the turns of all, every process submits
them, and each keeps the replies to its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch.distributed
from PIL import Image

from vision_zero.rollout.policy import GameImage, TurnRequest
from vision_zero.types import Reply

if TYPE_CHECKING:
    from vision_zero.rollout.vllm import VLLMPolicy

Pixels = dict[str, tuple[tuple[int, int], bytes]]


class SharedEnginePolicy:
    """The replies of `policy`, whose engine is spread over the processes of `group`.

    All of them must call equally often; they do if each has as many games as the others. Counters are an even share of
    the group's, so that sums over processes count every token once.
    """

    def __init__(self, policy: VLLMPolicy, group: torch.distributed.ProcessGroup) -> None:
        self.policy = policy
        self.group = group
        self.rank = torch.distributed.get_rank(group)
        self.size = torch.distributed.get_world_size(group)
        self._images: dict[str, GameImage] = {}
        self._told: set[str] = set()

    def answer(self, requests: Sequence[TurnRequest]) -> list[Reply]:
        gathered: list[tuple[list[TurnRequest], Pixels]] = [([], {})] * self.size
        torch.distributed.all_gather_object(gathered, (list(requests), self._new_pixels(requests)), self.group)
        everyones = []
        for theirs, pixels in gathered:
            for key, (size, data) in pixels.items():
                self._images.setdefault(key, GameImage(key, Image.frombytes("RGB", size, data)))
            everyones += [replace(request, image=self._images[request.image.key]) for request in theirs]
        replies = self.policy.answer(everyones)
        start = sum(len(theirs) for theirs, _ in gathered[: self.rank])
        return replies[start : start + len(requests)]

    @property
    def new_tokens(self) -> float:
        return self.policy.new_tokens / self.size

    @property
    def prefilled_tokens(self) -> float:
        return self.policy.prefilled_tokens / self.size

    @property
    def reused_tokens(self) -> float:
        return self.policy.reused_tokens / self.size

    def _new_pixels(self, requests: Sequence[TurnRequest]) -> Pixels:
        """Of images that the group has not heard of from here: a pickled `GameImage` is its key alone."""
        new = {request.image.key: request.image for request in requests if request.image.key not in self._told}
        self._told |= new.keys()
        return {key: (image.size, image.tobytes()) for key, image in new.items()}
