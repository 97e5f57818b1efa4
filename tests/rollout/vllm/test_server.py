"""Games through a real vLLM server on the CPU: the games of the transformers policy, with the weights of the moment.

One server for the whole module. The last test kills it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, ProcessorMixin

from tests.lora_runs import assert_lora_run, lora_run
from tests.process_helpers import ROOT, games, train, train_well
from tests.server_train import SILENCE, hanging_engine
from tests.tiny_games import BENCH_MODEL, IMAGE_TOKEN, bench_model, noise_pairs, request_for, tiny_games
from tests.trainer_helpers import make_trainer, random_pairs
from tests.vllm_server_helpers import DiskEngine, RunningServer, stub_server, unused_url, vllm_server
from vision_zero.models import load_processor
from vision_zero.rollout.game_images import GameImage, blank_image
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import TokenLimits, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.rollout.vllm import requests
from vision_zero.rollout.vllm import server as module
from vision_zero.rollout.vllm.client import ServerConnection, ServerOptions, VLLMServerError
from vision_zero.rollout.vllm.server import ServerEngine, ServerPolicy, check_server, drop_caches
from vision_zero.run_folder import is_complete
from vision_zero.trainer.logp_gap import LOGPROB_GAP
from vision_zero.types import Completion, Game, Turn

TOKEN_LIMITS = {"clue": TokenLimits(2, 7), "decision": TokenLimits(1, 5)}
MAX_PIXELS = 84 * 84  # the images are larger, so that server and trainer must resize them alike
SIZE = (140, 112)
GREEDY, DRAWN = Sampling(temperature=0), Sampling(0.7, 20, 0.9)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with vllm_server(BENCH_MODEL, MAX_PIXELS, tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def processor() -> ProcessorMixin:
    return load_processor(str(BENCH_MODEL), max_pixels=MAX_PIXELS)


@pytest.fixture
def model() -> PreTrainedModel:
    """Random weights answer almost uniformly; larger ones make what is said depend on prompt and image."""
    return with_larger_weights(bench_model(), 4)


def with_larger_weights(model: PreTrainedModel, factor: float, part: str = "") -> PreTrainedModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if part in name and parameter.dim() > 1 and "embed_tokens" not in name:
                parameter.mul_(factor)
    return model


def engine_for(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling, **options: Any
) -> ServerEngine:
    """An engine whose server has the model's weights."""
    given = [ServerOptions(server.url, **{"silence_timeout": 60, **options})]
    engine = DiskEngine(model, Accelerator(cpu=True), processor, sampling, given)
    engine.sync_weights()
    return engine


def trainer_with(server: RunningServer, folder: Path, processor: ProcessorMixin, **options: Any) -> Any:
    """A trainer of two iterations, if not said otherwise, whose games are played by `server`."""
    options = {"iterations": 2, "vllm_mode": "server", "vllm_server_base_url": server.url, **options}
    return make_trainer(folder, processor=processor, pairs=random_pairs(size=SIZE), use_vllm=True, **options)


def some_games() -> list[Game]:
    return tiny_games(4, pairs=noise_pairs(4, size=SIZE), n_rounds=2, n_votes=3)


def played(policy: Any, games: Sequence[Game] | None = None, **options: Any) -> list[Game]:
    given = some_games() if games is None else games
    return play(given, Seating.of(policy), TOKEN_LIMITS, template="compact", **options).games


def completions_of(games: Sequence[Game]) -> list[Completion]:
    return [said.completion for game in games for said in (*game.clues, *game.votes)]


def assert_same_games(ours: Sequence[Game], theirs: Sequence[Game]) -> None:
    for one, other in zip(completions_of(ours), completions_of(theirs), strict=True):
        assert one.prompt_ids == other.prompt_ids
        assert one.token_ids == other.token_ids
        assert one.text == other.text
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def recording(policy: ServerPolicy) -> dict[Turn, TurnRequest]:
    """Requests to `policy`, by turn."""
    asked: dict[Turn, TurnRequest] = {}
    submit = policy.submit

    def submit_and_remember(request: TurnRequest) -> None:
        asked[request.turn] = request
        submit(request)

    policy.submit = submit_and_remember  # type: ignore[method-assign]
    return asked


def forward_logprobs(
    model: PreTrainedModel, processor: ProcessorMixin, image: GameImage, completion: Completion, temperature: float
) -> list[float]:
    """Log-probabilities of the completion's tokens by one forward pass, as training makes them."""
    ids = torch.tensor([[*completion.prompt_ids, *completion.token_ids]])
    fields = processor.image_processor(images=[image.copy()], return_tensors="pt")
    with torch.no_grad():
        logits = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == IMAGE_TOKEN).int(), **fields
        ).logits[0, len(completion.prompt_ids) - 1 : -1]
    tokens = torch.tensor(completion.token_ids)
    return (logits / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()


# ------------------------------------------------------------------------------------------------------- the same games


def test_greedy_games_are_those_of_the_transformers_policy(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    """Their prompts too: the ids of images that are resized and of clues that were said are the processor's."""
    engine = engine_for(server, model, processor, GREEDY)
    with engine.awake():
        policy = engine.policy()
        ours = played(policy)
    assert_same_games(ours, played(TransformersPolicy(model, processor, GREEDY)))
    said = completions_of(ours)
    assert all(completion.prompt_ids.count(IMAGE_TOKEN) > 1 for completion in said)
    assert len({completion.token_ids for completion in said}) > 5
    assert policy.new_tokens == sum(len(completion.token_ids) for completion in said)
    assert policy.prefilled_tokens + policy.reused_tokens == sum(len(completion.prompt_ids) for completion in said)
    assert policy.reused_tokens > 0


def test_log_probabilities_are_those_that_training_computes(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    """At another temperature than 1, whatever top-k and top-p leave out."""
    engine = engine_for(server, model, processor, DRAWN)
    with engine.awake():
        policy = engine.policy()
        asked = recording(policy)
        games = played(policy)
    for said in (said for game in games for said in (*game.clues, *game.votes)):
        expected = forward_logprobs(model, processor, asked[said.turn].image, said.completion, DRAWN.temperature)
        assert said.completion.logprobs == pytest.approx(expected, abs=1e-4)
        minimum, maximum = TOKEN_LIMITS[said.turn.stage].minimum, TOKEN_LIMITS[said.turn.stage].maximum
        assert minimum <= len(said.completion.token_ids) <= maximum


def test_waiting_for_each_other_and_sharing_the_games_out_change_nothing(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    """Every turn has its own seed: in any batch, and from any process, it is answered the same."""
    engine, other = (engine_for(server, model, processor, DRAWN) for _ in range(2))
    with engine.awake(), other.awake():
        continuous = played(engine.policy())
        lock_step = played(engine.policy(), lock_step=True)
        games = some_games()
        shared = [*played(engine.policy(), games[:1]), *played(other.policy(), games[1:])]
        narrow = engine_for(server, model, processor, DRAWN, requests_at_once=1)
        one_by_one = played(narrow.policy())
    assert_same_games(continuous, lock_step)
    assert_same_games(continuous, shared)
    assert_same_games(continuous, one_by_one)
    assert len({completion.token_ids for completion in completions_of(continuous)}) > 20


def test_placeholders_are_never_sampled(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_for(server, model, processor, GREEDY)
    request = one_request("who is the spy?")
    with engine.awake():
        (free,) = engine.policy().answer([request])
        placeholders = requests.placeholder_ids
        favourite = free.token_ids[0]
        monkeypatch.setattr(requests, "placeholder_ids", lambda *given: [*placeholders(*given), favourite])
        (banned,) = engine.policy().answer([request])
    assert favourite not in banned.token_ids


def one_request(text: str, *, sample: int = 0, seed: int = 0) -> TurnRequest:
    (game,) = tiny_games(1)
    image = GameImage("image", noise_pairs(1, size=SIZE)[0].image.open())
    return request_for(text, image, game=game, sample=sample, seed=seed)


def test_an_image_that_the_server_forgot_is_sent_again(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    engine = engine_for(server, model, processor, GREEDY)
    requests = [one_request(f"question {number}", sample=number) for number in range(3)]
    with engine.awake():
        expected = engine.policy().answer(requests)
        policy = engine.policy()
        first = policy.answer(requests[:1])
        by_name = policy.answer(requests[1:2])
        engine.servers.alive[0].call("POST", "/reset_mm_cache").raise_for_status()
        drop_caches(engine.servers.alive[0])
        again = policy.answer(requests[2:])
    assert [completion.logprobs for completion in (*first, *by_name, *again)] == [
        pytest.approx(completion.logprobs, abs=1e-5) for completion in expected
    ]


def test_images_are_known_by_their_pixels(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    """A server outlives a run, and the next one may have other images under the same names."""
    engine = engine_for(server, model, processor, GREEDY)
    request = one_request("who?")
    blank = replace(request, image=GameImage(request.image.key, blank_image(SIZE)))
    with engine.awake():
        (seen,), (other,) = engine.policy().answer([request]), engine.policy().answer([blank])
    # A processor remembers images by their names, so it takes another one.
    fresh = load_processor(str(BENCH_MODEL), max_pixels=MAX_PIXELS)
    (expected,) = TransformersPolicy(model, fresh, GREEDY).answer([blank])
    assert other.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert other.logprobs != pytest.approx(seen.logprobs, abs=1e-3)


def test_a_processor_that_is_not_the_servers_is_refused(server: RunningServer, model: PreTrainedModel) -> None:
    engine = engine_for(server, model, load_processor(str(BENCH_MODEL)), GREEDY)
    with engine.awake(), pytest.raises(VLLMServerError, match=r"140x112 image.* same MODEL, MIN_PIXELS and MAX_PIXELS"):
        engine.policy().answer([one_request("who?")])


# --------------------------------------------------------------------------------------------------------- new weights


def test_after_new_weights_nothing_old_is_used(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assert_follows(engine: ServerEngine) -> None:
        with engine.awake():
            ours = played(engine.policy())
        assert_same_games(ours, played(TransformersPolicy(model, processor, GREEDY)))

    engine = engine_for(server, model, processor, GREEDY)
    assert_follows(engine)
    with_larger_weights(model, 1.5)
    engine.sync_weights()
    assert_follows(engine)

    # Without the reset, images are seen by the vision encoder that was.
    monkeypatch.setattr(module, "drop_caches", lambda connection: None)
    with_larger_weights(model, 3, "visual")
    engine.sync_weights()
    with pytest.raises(AssertionError):
        assert_follows(engine)
    monkeypatch.undo()
    engine.sync_weights()
    assert_follows(engine)


def test_the_server_has_the_weights_that_train(
    server: RunningServer, tmp_path: Path, processor: ProcessorMixin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two iterations of the real trainer: what the server samples is what the model in training would."""
    monkeypatch.setattr(module, "ServerEngine", DiskEngine)
    trainer = trainer_with(server, tmp_path, processor, iterations=3, learning_rate=1e-2)
    trainer.train()
    name = LOGPROB_GAP + "mean"
    gaps = [line[name] for line in trainer.state.log_history if name in line]
    assert len(gaps) == 3
    assert max(gaps) < 1e-4


@pytest.mark.parametrize(
    ("dtype", "iterations"),
    [
        ("bfloat16", 3),
        ("float32", 3),
        pytest.param("bfloat16", 50, marks=pytest.mark.slow),
        pytest.param("float32", 50, marks=pytest.mark.slow),
    ],
)
def test_lora_leaves_its_base_as_it_was_published(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, iterations: int
) -> None:
    """A resumed run and the export are the run and the model that was trained."""
    monkeypatch.setattr(module, "ServerEngine", DiskEngine)
    # One request at a time: what else is in a batch of the server changes the rounding of a log-probability.
    options = {"vllm_mode": "server", "vllm_server_base_url": server.url, "vllm_max_num_seqs": 1}
    found = lora_run(tmp_path, dtype, iterations, **options)
    assert_lora_run(found, dtype, iterations)
    again = lora_run(tmp_path, dtype, iterations, resume_at=iterations // 4 * 2 or 2, **options)
    assert (again["after"], again["adapter"]) == (found["after"], found["adapter"])


# ------------------------------------------------------------------------------------------- servers that are not right


def test_no_server_is_waited_for_and_then_named(capsys: pytest.CaptureFixture[str]) -> None:
    url = unused_url()
    started = time.monotonic()
    with pytest.raises(VLLMServerError, match=f"there is no vLLM server at {url} after 2 s"):
        ServerConnection(ServerOptions(url, start_timeout=2)).wait_until_up()
    assert 2 <= time.monotonic() - started < 5
    assert f"waiting for the vLLM server at {url}: 0 s of 2" in capsys.readouterr().err


RIGHT: dict[str, tuple[int, Any]] = {
    "/server_info": (
        200,
        {"vllm_config": {"model_config": {"model": "m", "dtype": "d", "logprobs_mode": "raw_logprobs"}}},
    ),
    "/inference/v1/generate": (400, {}),
    "/version": (200, {"version": "0.31.0"}),
    "/collective_rpc": (200, {}),
}
PROCESSED = {"vllm_config": {"model_config": {"model": "m", "dtype": "d", "logprobs_mode": "processed_logprobs"}}}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"/server_info": (404, {})}, "VLLM_SERVER_DEV_MODE=1"),
        ({"/server_info": (200, PROCESSED)}, "logprobs_mode=processed_logprobs.*--logprobs-mode raw_logprobs"),
        ({"/inference/v1/generate": (404, {})}, "--enable-scale-out"),
        ({"/collective_rpc": (500, {})}, "--worker-extension-cls"),
    ],
)
def test_a_server_that_was_not_started_as_it_must_be_is_refused(
    answers: dict[str, tuple[int, Any]], message: str
) -> None:
    with stub_server({**RIGHT, **answers}) as url, pytest.raises(VLLMServerError, match=message):
        check_server(ServerConnection(ServerOptions(url)), 0.8)


def test_the_real_server_says_what_the_checks_look_at(server: RunningServer) -> None:
    connection = ServerConnection(ServerOptions(server.url))
    check_server(connection, 1.0)
    info = connection.call("GET", "/server_info", params={"config_format": "json"}).json()
    assert info["vllm_config"]["model_config"]["logprobs_mode"] == "raw_logprobs"
    assert connection.call("GET", "/no/such/path").status_code == 404
    rpc = json.dumps({"method": "no_such_method"})
    assert connection.call("POST", "/collective_rpc", content=rpc).status_code == 500


def test_the_scripts_command_for_gpus_is_one_that_vllm_takes() -> None:
    # Imported here: every test process collects this file, one runs it, and vLLM is five CPU seconds of imports.
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from vision_zero.rollout.vllm.temperature import TemperatureWorker

    script = ROOT / "run_scripts" / "vllm_server.sh"
    variables = {"DRY_RUN": "1", "NUM_GPUS": "2", "MODEL": str(BENCH_MODEL), "MIN_PIXELS": "784", "MAX_PIXELS": "7056"}
    printed = subprocess.run(
        ["bash", str(script), "--seed", "7"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    environment, *_, program = (start := shlex.split(printed))[:4]
    words = start[4:]
    assert environment == "VLLM_SERVER_DEV_MODE=1"  # for who copies the line
    assert find_spec(program) is not None
    read = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    assert (read.model, read.tensor_parallel_size, read.dtype, read.seed) == (str(BENCH_MODEL), 2, "bfloat16", 7)
    assert read.mm_processor_kwargs == {"min_pixels": 784, "max_pixels": 7056}
    assert read.weight_transfer_config.backend == "nccl"
    assert read.enable_scale_out
    assert resolve_obj_by_qualname(read.worker_extension_cls) is TemperatureWorker


def test_a_server_that_works_for_another_run_is_refused() -> None:
    with (
        stub_server({"/reset_prefix_cache": (200, {"success": False})}) as url,
        pytest.raises(VLLMServerError, match="cannot be shared"),
    ):
        drop_caches(ServerConnection(ServerOptions(url)))


def test_weights_need_a_gpu(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin, tmp_path: Path
) -> None:
    with pytest.raises(VLLMServerError, match="NCCL, which needs a GPU; use vllm_mode=colocate"):
        ServerEngine(model, Accelerator(cpu=True), processor, GREEDY, [ServerOptions(server.url)], folder=tmp_path)


def test_what_the_server_refuses_is_said(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    engine = engine_for(server, model, processor, GREEDY)
    with engine.awake(), pytest.raises(VLLMServerError, match=r"says 400: .*1024"):
        engine.policy().answer([one_request("a long question, " * 1000)])


# ----------------------------------------------------------------------------------------------- servers that are lost


def test_a_server_that_hangs_stops_the_rollout_after_the_stated_time(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    engine = engine_for(server, model, processor, GREEDY, silence_timeout=2)
    started = time.monotonic()
    with engine.awake():
        policy = engine.policy()
        policy.submit(one_request("first"))
        assert policy.poll()
        server.signal(signal.SIGSTOP)
        try:
            policy.submit(one_request("second"))
            with pytest.raises(
                VLLMServerError, match=r"no completion for 2 s \(vllm_request_timeout\), with 1 waited for"
            ):
                policy.poll()
        finally:
            server.signal(signal.SIGCONT)
    assert time.monotonic() - started < 30
    with engine.awake():  # what was called off does not come back
        assert len(engine.policy().answer([one_request("third")])) == 1


def test_a_reply_of_another_shape_ends_a_run_after_a_checkpoint(
    server: RunningServer, tmp_path: Path, processor: ProcessorMixin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub_server({"/inference/v1/generate": (200, {})}) as url:

        class RudeEngine(DiskEngine):
            def policy(self) -> ServerPolicy:
                if trainer.state.global_step:
                    self.servers.alive[0]._client.base_url = url
                return super().policy()

        monkeypatch.setattr(module, "ServerEngine", RudeEngine)
        trainer = trainer_with(server, tmp_path, processor)
        saved = tmp_path / "checkpoint-1"
        with pytest.raises(VLLMServerError, match=rf"KeyError: 'choices'.*\nthe run was saved at {saved}\. Start"):
            trainer.train()
    assert is_complete(saved)


def test_a_lost_server_ends_a_run_after_a_checkpoint(
    server: RunningServer, tmp_path: Path, processor: ProcessorMixin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ServerEngine", hanging_engine(hang_at=1, group=server.process.pid))
    trainer = trainer_with(server, tmp_path, processor)
    saved = tmp_path / "checkpoint-1"
    said = rf"no completion for {SILENCE} s .*\nthe run was saved at {saved}\. Start the server again .* with --resume"
    try:
        with pytest.raises(VLLMServerError, match=said):
            trainer.train()
    finally:
        server.signal(signal.SIGCONT)
    assert is_complete(saved)


@pytest.mark.slow
def test_all_processes_stop_together_and_the_run_goes_on_as_if_nothing_had_been(
    server: RunningServer, tmp_path: Path
) -> None:
    """The server hangs while two processes play their second iteration; resumed, they play the games of one process."""
    options: dict[str, Any] = {
        "model_name_or_path": BENCH_MODEL,
        "max_pixels": MAX_PIXELS,
        "iterations": 3,
        "save_steps": 3,
        "learning_rate": 0.0,  # random weights earn nothing, and Adam makes steps of the rounding of two processes
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_server_base_url": server.url,
    }
    program = str(ROOT / "tests" / "server_train.py")
    one, two = tmp_path / "one", tmp_path / "two"
    train_well(one, program=[program, "0", "0"], **options)
    shared_out = {**options, "processes": 2, "per_device_train_batch_size": 2}
    hang_at = [program, "2", str(server.process.pid)]  # the first rollout is the self-check
    try:
        stopped = train(two, program=hang_at, **shared_out)
    finally:
        server.signal(signal.SIGCONT)
    assert stopped.status != 0
    said = f"error: the vLLM server at {server.url} has sent no completion for {SILENCE} s"
    assert stopped.output.count(said) == 2, "both processes end by themselves, with the reason"
    assert f"the run was saved at {two}/checkpoint-1. Start the server again" in stopped.output
    assert is_complete(two / "checkpoint-1")

    resumed = train_well(two, program=[program, "0", "0"], resume=True, **shared_out)
    assert f"resuming from {two}/checkpoint-1" in resumed.output
    assert_same_recorded_games(two, one, 3)


def turns(games: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [turn for game in games for turn in (*game["clues"], *game["votes"])]


def assert_same_recorded_games(run: Path, other: Path, iterations: int) -> None:
    """Equal in everything but log-probabilities, which are equal within what rounding makes of updates."""
    ours, theirs = games(run), games(other)
    assert len(ours) == iterations
    assert ours.keys() == theirs.keys()
    for name in ours:
        for turn, same in zip(turns(ours[name]), turns(theirs[name]), strict=True):
            assert turn.pop("logprobs") == pytest.approx(same.pop("logprobs"), abs=1e-3)
            assert turn == same


def test_a_server_that_is_killed_stops_the_rollout(
    server: RunningServer, model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    """The last test: there is no server after it."""
    engine = engine_for(server, model, processor, GREEDY)
    killed: list[float] = []

    def kill(turns: int) -> None:
        if not killed:
            server.signal(signal.SIGKILL)
            killed.append(time.monotonic())

    with engine.awake(), pytest.raises(VLLMServerError, match=f"lost the vLLM server at {server.url}"):
        played(engine.policy(), on_call=kill)
    assert time.monotonic() - killed[0] < 5
    with pytest.raises(VLLMServerError, match=f"lost the vLLM server at {server.url}: it does not answer"):
        engine.sync_weights()
