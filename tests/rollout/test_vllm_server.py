"""Games through a real vLLM server on the CPU: the games of the transformers policy, with the weights of the moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, ProcessorMixin

from tests.tiny_games import BENCH_MODEL, IMAGE_TOKEN, bench_model, noise_pairs, tiny_games
from tests.vllm_server_helpers import DiskEngine, vllm_server
from vision_zero.models import load_processor
from vision_zero.rollout.engine import Table, play
from vision_zero.rollout.policy import TokenLimits
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers import TransformersPolicy
from vision_zero.rollout.vllm_connection import ServerOptions
from vision_zero.rollout.vllm_server import ServerEngine
from vision_zero.types import Game, Reply

LIMITS = {"clue": TokenLimits(2, 7), "decision": TokenLimits(1, 5)}
MAX_PIXELS = 84 * 84  # the images are larger, so that server and trainer must resize them alike
SIZE = (140, 112)
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server(BENCH_MODEL, MAX_PIXELS, tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def processor() -> ProcessorMixin:
    return load_processor(str(BENCH_MODEL), max_pixels=MAX_PIXELS)


@pytest.fixture
def model() -> PreTrainedModel:
    return sharpened(bench_model(), 4)


def sharpened(model: PreTrainedModel, factor: float) -> PreTrainedModel:
    """Random weights answer almost uniformly; larger ones make what is said depend on prompt and image."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_tokens" not in name:
                parameter.mul_(factor)
    return model


def server(url: str, model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling) -> ServerEngine:
    return DiskEngine(model, Accelerator(cpu=True), processor, sampling, ServerOptions(url, silence_timeout=60))


def games() -> list[Game]:
    return tiny_games(4, pairs=noise_pairs(4, size=SIZE), n_rounds=2, n_votes=3)


def played(engine: ServerEngine, *, lock_step: bool = False) -> list[Game]:
    with engine.awake():
        table = Table.of(engine.policy())
        return play(games(), table, LIMITS, template="compact", lock_step=lock_step).games


def played_by_transformers(model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling) -> list[Game]:
    policy = TransformersPolicy(model, processor, sampling)
    return play(games(), Table.of(policy), LIMITS, template="compact").games


def replies(games: Sequence[Game]) -> list[Reply]:
    return [said.reply for game in games for said in (*game.clues, *game.votes)]


def assert_same_games(ours: Sequence[Game], theirs: Sequence[Game]) -> None:
    for one, other in zip(replies(ours), replies(theirs), strict=True):
        assert one.prompt_ids == other.prompt_ids
        assert one.token_ids == other.token_ids
        assert one.text == other.text
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_greedy_games_are_those_of_the_transformers_policy(
    url: str, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    """Their prompts too: ids of images that are resized, of clues that were said, all as the processor makes them."""
    engine = server(url, model, processor, GREEDY)
    engine.sync_weights()
    ours = played(engine)
    assert_same_games(ours, played_by_transformers(model, processor, GREEDY))
    said = replies(ours)
    assert all(reply.prompt_ids.count(IMAGE_TOKEN) > 1 for reply in said)
    assert len({reply.token_ids for reply in said}) > 5
