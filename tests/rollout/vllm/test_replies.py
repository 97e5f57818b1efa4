"""Replies that are not a vLLM server's: each is an error with the url and what is wrong, none is waited for long."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_games import IMAGE_TOKEN, bench_model, bench_processor, noise_pairs, request_for, tiny_games
from tests.vllm_server_helpers import DRIP, DiskEngine, stub_server
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.policy import TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.vllm import client
from vision_zero.rollout.vllm.client import GENERATE, HEALTH, ServerConnection, ServerOptions, VLLMServerError
from vision_zero.rollout.vllm.server import ServerPolicy, WeightClient, WeightSender, check_server, drop_caches
from vision_zero.rollout.vllm.servers import Servers

TEMPERATURE = 0.8
MODEL = {"model": "m", "dtype": "torch.bfloat16", "logprobs_mode": "raw_logprobs"}
INFO = {"vllm_config": {"model_config": MODEL, "weight_transfer_config": {}}}
RIGHT: dict[str, tuple[int, Any]] = {
    HEALTH: (200, b""),
    "/server_info": (200, INFO),
    GENERATE: (400, {}),
    "/version": (200, {"version": "0.31.0"}),
    "/collective_rpc": (200, {"results": [{"temperature": TEMPERATURE, "started": "once"}] * 2}),
    "/reset_prefix_cache": (200, {"success": True}),
    "/reset_encoder_cache": (200, b""),
    "/v1/models": (200, {"data": [{"id": "m"}]}),
}
TIME = 0.3
NO_JSON = (b"", b"<html>bad gateway</html>", b'{"half": ', b"\xff\xfe\x00", b"[" * 100_000)


def one_request() -> TurnRequest:
    (game,) = tiny_games(1)
    return request_for("who?", GameImage("image", noise_pairs(1)[0].image.open()), game=game, token_limits=(1, 3))


@pytest.fixture(scope="module")
def make_policy() -> Callable[[str], ServerPolicy]:
    model, processor = bench_model(), bench_processor()
    return lambda url: ServerPolicy(Servers([ServerOptions(url)]), model, processor, Sampling(TEMPERATURE))


@pytest.fixture(scope="module")
def unconnected(make_policy: Callable[[str], ServerPolicy]) -> ServerPolicy:
    return make_policy("http://nowhere")


@pytest.fixture(scope="module")
def right_reply(unconnected: ServerPolicy) -> dict[str, Any]:
    tokens = [11, 12]
    said = [{"token": f"token_id:{token}", "logprob": -0.5, "top_logprobs": []} for token in tokens]
    return {
        "choices": [{"token_ids": tokens, "finish_reason": "stop", "logprobs": {"content": said}}],
        "prompt_token_ids": unconnected._prompt(one_request())[1],
        "usage": {"prompt_tokens_details": {"cached_tokens": 1}},
    }


def test_a_right_server_is_taken(make_policy: Callable[[str], ServerPolicy], right_reply: dict[str, Any]) -> None:
    with stub_server(RIGHT) as url:
        connection = ServerConnection(ServerOptions(url))
        assert connection.is_up()
        check_server(connection, TEMPERATURE)
        drop_caches(connection)
        assert WeightClient(connection).model == "m"
    with stub_server({GENERATE: (200, right_reply)}) as url:
        (completion,) = make_policy(url).answer([one_request()])
    assert completion.token_ids == (11, 12)
    assert completion.logprobs == (-0.5, -0.5)


# -------------------------------------------------------------------------------------------------------- completions

CHOICE = ("choices", 0)
ENTRY = (*CHOICE, "logprobs", "content", 0)
WRONG = [
    ((), {}, "KeyError: 'choices'"),
    ((), None, "NoneType"),
    ((), [], "TypeError"),
    ((), "choices", "TypeError"),
    (("choices",), [], "not enough values"),
    (("choices",), None, "NoneType"),
    ((*CHOICE, "finish_reason"), "abort", "ended with 'abort'"),
    ((*CHOICE, "token_ids"), None, "NoneType"),
    ((*CHOICE, "token_ids"), [], "0 tokens, where 1 to 3 were asked for"),
    ((*CHOICE, "token_ids"), [11] * 4, "4 tokens, where 1 to 3"),
    ((*CHOICE, "token_ids"), [11], "zip"),
    ((*CHOICE, "token_ids"), [11, 12, 13], "zip"),
    ((*CHOICE, "token_ids", 0), 10**9, "token id 1000000000 cannot have been sampled"),
    ((*CHOICE, "token_ids", 0), -1, "token id -1"),
    ((*CHOICE, "token_ids", 0), "11", "token id '11'"),
    ((*CHOICE, "token_ids", 0), 11.0, "token id 11.0"),
    ((*CHOICE, "token_ids", 0), True, "token id True"),
    ((*CHOICE, "token_ids", 0), IMAGE_TOKEN, f"token id {IMAGE_TOKEN}"),
    ((*CHOICE, "token_ids", 0), 13, "log-probability of token_id:11 is given for token 13"),
    ((*CHOICE, "logprobs"), None, "NoneType"),
    ((*ENTRY, "logprob"), None, "log-probability of token 11 is None"),
    ((*ENTRY, "logprob"), "-0.5", "is '-0.5'"),
    ((*ENTRY, "logprob"), math.nan, "is nan"),
    ((*ENTRY, "logprob"), -math.inf, "is -inf"),
    ((*ENTRY, "logprob"), 0.5, "is 0.5"),
    ((*ENTRY, "logprob"), False, "is False"),
    ((*ENTRY, "logprob"), -(10**400), "is -1000"),
    (("prompt_token_ids",), None, "NoneType"),
    (("prompt_token_ids",), [1], "makes 1 tokens of a prompt with a 56x56 image"),
    (("usage",), None, "NoneType"),
    (("usage", "prompt_tokens_details"), [1], "AttributeError"),
    (("usage", "prompt_tokens_details", "cached_tokens"), "many", "many of .* tokens were cached"),
    (("usage", "prompt_tokens_details", "cached_tokens"), -1, "-1 of .* tokens were cached"),
]


def changed(reply: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    reply = copy.deepcopy(reply)
    at = reply
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return reply


@pytest.mark.parametrize(("path", "value", "words"), WRONG)
def test_a_completion_of_another_shape_says_what_is_wrong(
    make_policy: Callable[[str], ServerPolicy],
    right_reply: dict[str, Any],
    path: tuple[str | int, ...],
    value: Any,
    words: str,
) -> None:
    with stub_server({GENERATE: (200, changed(right_reply, path, value))}) as url:
        policy = make_policy(url)
        with pytest.raises(VLLMServerError, match=words) as raised:
            policy.answer([one_request()])
    assert url in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert (policy.new_tokens, policy.prefilled_tokens, policy.reused_tokens) == (0, 0, 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PATHS = sorted({path[:depth] for path, *_ in WRONG for depth in range(len(path) + 1)}, key=str)


@given(path=st.sampled_from(PATHS), value=JSON)
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_completion_or_an_error(
    unconnected: ServerPolicy, right_reply: dict[str, Any], path: tuple[str | int, ...], value: Any
) -> None:
    try:
        completion = unconnected._completion(
            one_request(), unconnected._prompt(one_request())[1], changed(right_reply, path, value), "http://s"
        )
    except VLLMServerError:
        return
    assert completion.token_ids == (11, 12)
    assert all(math.isfinite(logprob) and type(logprob) is float for logprob in completion.logprobs)


@pytest.mark.parametrize("body", NO_JSON)
def test_no_json_is_an_error_at_once(make_policy: Callable[[str], ServerPolicy], body: bytes) -> None:
    with stub_server({GENERATE: (200, body)}) as url:
        started = time.monotonic()
        with pytest.raises(VLLMServerError, match=f"{url}{GENERATE} replies something else than a vLLM server"):
            make_policy(url).answer([one_request()])
    assert time.monotonic() - started < 5


def test_a_dripping_completion_counts_as_none(make_policy: Callable[[str], ServerPolicy]) -> None:
    with stub_server({GENERATE: (200, DRIP)}) as url:
        policy = make_policy(url)
        policy.servers.alive[0].options = ServerOptions(url, silence_timeout=TIME)
        with pytest.raises(VLLMServerError, match=r"no completion for .* s \(vllm_request_timeout\)"):
            policy.answer([one_request()])
        policy.servers.cancel()


# ----------------------------------------------------------------------------------------------------- all other calls

CALLS: dict[str, Callable[[ServerConnection], object]] = {
    "/server_info": lambda connection: check_server(connection, TEMPERATURE),
    "/version": lambda connection: check_server(connection, TEMPERATURE),
    "/collective_rpc": lambda connection: check_server(connection, TEMPERATURE),
    "/reset_prefix_cache": drop_caches,
}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        *(
            (path, content)
            for path in CALLS
            for content in (None, [], {}, "", 7, [[]], {"vllm_config": None}, *NO_JSON)
        ),
        ("/collective_rpc", {"results": []}),
        ("/collective_rpc", {"results": [None]}),
        ("/collective_rpc", {"results": [{"temperature": TEMPERATURE}, {"temperature": 1.0}]}),
        ("/collective_rpc", {"results": [{"temperature": []}]}),
        ("/reset_prefix_cache", {"success": "perhaps"}),
        ("/reset_prefix_cache", {"success": None}),
    ],
)
def test_every_reply_of_another_shape_is_an_error(path: str, content: Any) -> None:
    with stub_server({**RIGHT, path: (200, content)}) as url:
        connection = ServerConnection(ServerOptions(url))
        with pytest.raises(VLLMServerError, match=f"{url}{path}.* replies something else than a vLLM server") as raised:
            CALLS[path](connection)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("path", "content"),
    [("/v1/models", content) for content in (None, {}, {"data": []}, {"data": {}}, b"<html>")]
    + [("/v1/models", DRIP), (HEALTH, DRIP), ("/collective_rpc", DRIP), ("/reset_prefix_cache", DRIP)],
)
def test_a_run_hears_of_it_as_of_any_lost_server(
    path: str, content: Any, monkeypatch: pytest.MonkeyPatch, make_policy: Callable[[str], ServerPolicy]
) -> None:
    """Through the engine, from the connection to the caches that are cleared."""
    request = client.ServerConnection.call

    def call(self: ServerConnection, method: str, path: str, *, timeout: float = TIME, **more: Any) -> Any:
        return request(self, method, path, timeout=min(timeout, TIME), **more)

    monkeypatch.setattr(client.ServerConnection, "call", call)
    with stub_server({**RIGHT, path: (200, content)}) as url:
        started = time.monotonic()
        with pytest.raises(VLLMServerError, match=url):
            DiskEngine(
                bench_model(), Accelerator(cpu=True), bench_processor(), Sampling(TEMPERATURE), [ServerOptions(url, 1)]
            ).sync_weights()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/server_info", {"vllm_config": {"model_config": {**MODEL, "model": "another"}}}),
        ("/server_info", {"vllm_config": {"model_config": {**MODEL, "dtype": "another"}}}),
        ("/version", {"version": "another"}),
    ],
)
def test_servers_that_are_not_alike_are_refused(path: str, content: Any) -> None:
    with stub_server(RIGHT) as url, stub_server({**RIGHT, path: (200, content)}) as other:
        options = [ServerOptions(url, 1), ServerOptions(other, 1)]
        with pytest.raises(VLLMServerError, match=f"not alike: .*{url}.*{other}.*'another'"):
            DiskEngine(bench_model(), Accelerator(cpu=True), bench_processor(), Sampling(TEMPERATURE), options)


class Group:
    """In place of an NCCL group: a broadcast ends when all workers take it, or the group is destroyed."""

    def __init__(self, broken: bool) -> None:
        self.sent: list[float] = []
        self.destroyed, self.broken = threading.Event(), broken

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        if self.broken:
            assert self.destroyed.wait(20)
        self.sent.append(tensor.item())

    def destroy(self) -> None:
        self.destroyed.set()


def test_weights_reach_the_others_when_a_server_is_lost_while_they_are_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def producer(iterator: Any, group: Any, src: int, post_iter_func: Any) -> None:
        for item in iterator:  # vLLM's needs a GPU
            group.broadcast(post_iter_func(item), src=src)

    monkeypatch.setattr("trl.generation.vllm_client.packed_nccl_broadcast_producer", producer)
    updates = dict.fromkeys(("/start_weight_update", "/update_weights", "/finish_weight_update"), (200, {}))
    broken = {**RIGHT, **updates, "/update_weights": (500, {})}
    with stub_server({**RIGHT, **updates}) as url, stub_server(broken) as other:
        servers = Servers([ServerOptions(url), ServerOptions(other)])
        sender = WeightSender(servers)
        right, wrong = Group(broken=False), Group(broken=True)
        for client, group in zip(sender.clients.values(), (right, wrong), strict=True):
            client.communicator = group
        weights = [(name, torch.tensor(float(value))) for value, name in enumerate("abc")]
        for _ in range(2):
            sender.update_named_params([(name, "float32", []) for name, _ in weights], iter(weights))
    assert right.sent == [0.0, 1.0, 2.0] * 2, "gathered once"
    assert wrong.destroyed.is_set()
    assert len(wrong.sent) <= 1
    assert list(servers.lost) == [other]
    assert f"{other}/update_weights says 500: {{}}; the run goes on with 1 of 2 servers" in capsys.readouterr().err


def test_a_call_ends_in_its_time_in_all() -> None:
    """Though every byte comes in time."""
    with stub_server({HEALTH: (200, DRIP)}) as url:
        connection = ServerConnection(ServerOptions(url))
        started = time.monotonic()
        with pytest.raises(VLLMServerError, match=rf"does not answer at {url}{HEALTH}: no whole reply in 0.3 s"):
            connection.call("GET", HEALTH, timeout=TIME)
        assert TIME <= time.monotonic() - started < 5
