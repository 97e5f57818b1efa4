"""Games and runs on two real vLLM servers on the CPU: those of one server, whatever becomes of the other.

Two servers for the whole module; a test kills the first, and the last ones both of another pair.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from transformers import PreTrainedModel, ProcessorMixin

from tests.process_helpers import ROOT, metrics, train_well
from tests.rollout.vllm.test_server import (
    DRAWN,
    MAX_PIXELS,
    SIZE,
    assert_same_games,
    assert_same_recorded_games,
    completions_of,
    model,
    played,
    processor,
    some_games,
)
from tests.tiny_games import BENCH_MODEL
from tests.trainer_helpers import make_trainer, random_pairs, record_rollouts
from tests.vllm_server_helpers import DiskEngine, RunningServer, vllm_server
from vision_zero.rollout.vllm import server as module
from vision_zero.rollout.vllm.client import ServerOptions, VLLMServerError
from vision_zero.rollout.vllm.server import ServerPolicy
from vision_zero.run_folder import is_complete

pytestmark = pytest.mark.slow

__all__ = ["model", "processor"]  # fixtures
SILENCE = 4


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], RunningServer]]:
    with ExitStack() as stack:
        logs = tmp_path_factory.mktemp("servers")
        numbers = iter(range(9))
        yield lambda: stack.enter_context(vllm_server(BENCH_MODEL, MAX_PIXELS, logs / f"log{next(numbers)}"))


@pytest.fixture(scope="module")
def pair(start: Callable[[], RunningServer]) -> list[RunningServer]:
    return [start(), start()]


def engine_of(
    servers: Sequence[RunningServer], model: PreTrainedModel, processor: ProcessorMixin, **options: Any
) -> DiskEngine:
    given = [ServerOptions(server.url, **{"silence_timeout": 60, **options}) for server in servers]
    engine = DiskEngine(model, Accelerator(cpu=True), processor, DRAWN, given)
    engine.sync_weights()
    return engine


def who_answered(engine: DiskEngine) -> list[tuple[int, str]]:
    """A list of game and url that every request of `engine` is added to as it is sent."""
    answered: list[tuple[int, str]] = []
    server_of = engine.servers._server_of

    def recording(game: int) -> Any:
        server = server_of(game)
        answered.append((game, server.options.url))
        return server

    engine.servers._server_of = recording  # type: ignore[method-assign]
    return answered


@pytest.mark.parametrize("more", [{}, {"requests_at_once": 1}])
@pytest.mark.parametrize("lock_step", [False, True])
def test_two_servers_play_the_games_of_one(
    pair: list[RunningServer], model: PreTrainedModel, processor: ProcessorMixin, more: Any, lock_step: bool
) -> None:
    alone, both = engine_of(pair[:1], model, processor), engine_of(pair, model, processor, **more)
    sent = who_answered(both)
    with alone.awake(), both.awake():
        expected, found = played(alone.policy()), played(both.policy(), lock_step=lock_step)
    assert_same_games(found, expected)
    assert len({completion.token_ids for completion in completions_of(found)}) > 20
    homes = {game: {url for one, url in sent if one == game} for game, _ in sent}
    assert sorted(map(len, homes.values())) == [1] * len(some_games())
    assert {url for _, url in sent} == {server.url for server in pair}


def test_one_server_under_two_names_is_refused(
    pair: list[RunningServer], model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    """Else it would get the weights twice, over two groups."""
    url = pair[0].url
    names = [ServerOptions(one) for one in (url, url.replace("127.0.0.1", "localhost"))]
    assert len({one.url for one in names}) == 2
    with pytest.raises(VLLMServerError, match=r"is the one at http://localhost:.*: every server must be"):
        DiskEngine(model, Accelerator(cpu=True), processor, DRAWN, names)


def test_the_games_of_a_server_that_stands_still_are_played_on_by_the_other(
    pair: list[RunningServer], model: PreTrainedModel, processor: ProcessorMixin, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, both = engine_of(pair[1:], model, processor), engine_of(pair, model, processor, silence_timeout=SILENCE)
    with alone.awake():
        expected = played(alone.policy())
    answers: list[int] = []

    def stop(n_turns: int) -> None:
        answers.append(n_turns)
        if len(answers) == 3:
            pair[0].signal(signal.SIGSTOP)

    try:
        with both.awake():
            assert_same_games(played(both.policy(), on_call=stop), expected)
        (line,) = capsys.readouterr().err.splitlines()
        assert pair[0].url in line
        assert "the run goes on with 1 of 2 servers" in line
    finally:
        pair[0].signal(signal.SIGCONT)

    # It stays out, though it is there again.
    both.sync_weights()
    sent = who_answered(both)
    with both.awake():
        assert_same_games(played(both.policy()), expected)
    assert {url for _, url in sent} == {pair[1].url}
    assert list(both.servers.lost) == [pair[0].url]


# ----------------------------------------------------------------------------------------------------------- whole runs


def killing_engine(*killed: tuple[int, RunningServer, signal.Signals]) -> type[DiskEngine]:
    """Ends servers, each in the middle of a rollout, counted from 1."""

    class KillingEngine(DiskEngine):
        rollouts = 0

        def policy(self) -> ServerPolicy:
            self.rollouts += 1
            policy, submit, submitted = super().policy(), ServerPolicy.submit, []
            dying = [(server, number) for rollout, server, number in killed if rollout == self.rollouts]

            def submit_and_kill(request: Any) -> None:
                submit(policy, request)
                submitted.append(request)
                if len(submitted) == 7:
                    for server, number in dying:
                        server.signal(number)

            policy.submit = submit_and_kill  # type: ignore[method-assign]
            return policy

    return KillingEngine


def trainer_on(
    servers: Sequence[RunningServer], folder: Path, processor: ProcessorMixin, *killed: Any, **options: Any
) -> Any:
    """A trainer of two iterations of each stage, in turn, whose rewards are worth training on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ServerEngine", killing_engine(*killed))
        return make_trainer(
            folder,
            processor=processor,
            pairs=random_pairs(size=SIZE),
            games=4,
            iterations=4,
            schedule="cycle",
            cycle_decision=1,
            cycle_clue=1,
            learning_rate=1e-3,
            use_vllm=True,
            vllm_mode="server",
            vllm_server_base_url=" ".join(server.url for server in servers),
            **options,
        )


def test_processes_go_on_together_without_a_server_that_stands_still(pair: list[RunningServer], tmp_path: Path) -> None:
    """From the second iteration on; the games of two processes are those of one, on one server."""
    options: dict[str, Any] = {
        "model_name_or_path": BENCH_MODEL,
        "max_pixels": MAX_PIXELS,
        "iterations": 3,
        "learning_rate": 0.0,  # random weights earn nothing, and Adam makes steps of the rounding of two processes
        "use_vllm": True,
        "vllm_mode": "server",
    }
    program = str(ROOT / "tests" / "server_train.py")
    one, two = tmp_path / "one", tmp_path / "two"
    train_well(one, program=[program, "0", "0"], vllm_server_base_url=pair[1].url, **options)
    try:
        finished = train_well(
            two,
            program=[program, "2", str(pair[0].process.pid)],  # the first rollout is the self-check
            processes=2,
            per_device_train_batch_size=2,
            vllm_server_base_url=f"{pair[0].url},{pair[1].url}",
            **options,
        )
    finally:
        pair[0].signal(signal.SIGCONT)
    assert finished.output.count("the run goes on with 1 of 2 servers") == 1, "one process tells of it"
    assert [line["rollout/servers"] for line in metrics(two)] == [2, 1, 1]
    assert_same_recorded_games(two, one, 3)


QLORA: dict[str, Any] = {
    "use_peft": True,
    "load_in_4bit": True,
    "lora_r": 4,
    "lora_target_modules": ["q_proj", "v_proj"],
}


@pytest.mark.parametrize(
    "options",
    [
        {"processes": 2, "deepspeed": ROOT / "configs" / "deepspeed" / "zero2.json"},
        {"processes": 2, "deepspeed": ROOT / "configs" / "deepspeed" / "zero3.json"},
        QLORA,
        {"past_players": 0.5, "past_role": "voter"},
    ],
    ids=["ZeRO-2", "ZeRO-3", "QLoRA", "past players"],
)
def test_servers_have_the_weights_that_train(
    options: dict[str, Any], pair: list[RunningServer], tmp_path: Path
) -> None:
    """However they are held: log-probabilities as sampled are those of training, before and after they have moved."""
    run, program = tmp_path / "run", str(ROOT / "tests" / "server_train.py")
    train_well(
        run,
        program=[program, "0", "0"],
        model_name_or_path=BENCH_MODEL,
        max_pixels=MAX_PIXELS,
        iterations=3,
        learning_rate=1e-3,
        reward_control="random",  # for words without meaning
        use_vllm=True,
        vllm_mode="server",
        vllm_server_base_url=",".join(server.url for server in pair),
        **options,
    )
    lines = metrics(run)
    assert [line["rollout/servers"] for line in lines] == [2, 2, 2]
    assert max(line["sampling/logp_gap/mean"] for line in lines) < 1e-4
    assert all(line["grad_norm"] > 0 for line in lines)


def test_a_run_goes_on_when_a_server_is_killed(
    pair: list[RunningServer], tmp_path: Path, processor: ProcessorMixin, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both stages; in the second iteration one of two is killed. The games are those of a run on one server."""
    alone = trainer_on(pair[1:], tmp_path / "alone", processor)
    expected = record_rollouts(alone)
    alone.train()
    capsys.readouterr()
    run = trainer_on(pair, tmp_path / "both", processor, (2, pair[0], signal.SIGKILL))
    rollouts = record_rollouts(run)
    run.train()
    assert pair[0].process.poll() is not None
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "lost the vLLM server" in line]
    assert pair[0].url in line
    assert len(rollouts) == len(expected) == 4
    for ours, theirs in zip(rollouts, expected, strict=True):
        assert_same_games(ours.games, theirs.games)
    ours, theirs = ([line for line in one.state.log_history if "loss" in line] for one in (run, alone))
    assert [line["stage/is_clue"] for line in ours] == [0, 1, 0, 1]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], abs=1e-4)
    assert max(line["sampling/logp_gap/mean"] for line in ours) < 1e-4
    assert [line["rollout/servers"] for line in ours] == [2, 1, 1, 1]


def test_a_run_without_any_server_left_stops_after_a_checkpoint(
    pair: list[RunningServer], start: Callable[[], RunningServer], tmp_path: Path, processor: ProcessorMixin
) -> None:
    servers = [pair[1], start()]
    killed = ((2, servers[0], signal.SIGTERM), (2, servers[1], signal.SIGKILL))
    run = trainer_on(servers, tmp_path, processor, *killed)
    saved = tmp_path / "checkpoint-1"
    said = rf"the vLLM server at .*; none is left of 2 servers\nthe run was saved at {saved}\. Start the server"
    with pytest.raises(VLLMServerError, match=said):
        run.train()
    assert is_complete(saved)
