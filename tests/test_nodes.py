"""Runs on several nodes: the launch script on each, between network namespaces where they can be made, and under Slurm.

`tests/slurm` has stand-ins for Slurm's commands, which start what Slurm would, on this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fork_server import ENVIRONMENT, ForkedProcess, free_port, without_packages
from tests.process_helpers import OPTIONS, ROOT, TIMEOUT, metrics, train_well
from tests.trainer.test_distributed import assert_same_games, assert_same_metrics
from vision_zero.run_folder import complete_checkpoints

SCRIPT = ROOT / "run_scripts" / "run_grpo_vision_zero.sh"
SLURM = ROOT / "tests" / "slurm"
TWO = {"per_device_train_batch_size": 2, "save_steps": 1}


def environment(base: Path, **variables: str) -> dict[str, str]:
    """Of the launch script: nothing but what is named here, and one process on the CPU of each node."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PET_", "GLOO"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"OUTPUT_BASE_DIR": str(base), "RUN_NAME": "run", "NUM_GPUS": "0", "REPORT_TO": "none"}
    return {**kept, **ENVIRONMENT, "PATH": path, "VIRTUAL_ENV": sys.prefix, **own, **variables}


def options_file(folder: Path, **options: Any) -> list[str]:
    """The options of tests in a file that takes the place of the script's."""
    file = folder / "options.yaml"
    values = {**OPTIONS, **TWO, **options}
    file.write_text(yaml.safe_dump({name: str(one) if isinstance(one, Path) else one for name, one in values.items()}))
    return ["--config", str(file)]


@dataclass(frozen=True)
class Node:
    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text("utf-8")

    def errors(self) -> list[str]:
        return [line for line in self.output().splitlines() if line.startswith("error:")]


@contextmanager
def node(
    rank: int, head: str, folder: Path, arguments: Sequence[str], prefix: Sequence[str] = (), **variables: str
) -> Iterator[Node]:
    """The launch script on one of two nodes; what is left of it is killed."""
    log = folder / f"node{rank}.log"
    own = {"NODES": "2", "NODE_RANK": str(rank), "HEAD": head, **variables}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*prefix, "bash", str(SCRIPT), *arguments],
            env=environment(folder / "runs", **own),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield Node(process, log)
    finally:
        for pid in descendants(process.pid):  # those of torchrun are in sessions of their own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def descendants(pid: int) -> list[int]:
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(one for child in children for one in descendants(int(child)))]
    return [pid]


def wait_until(condition: Any, *nodes: Node) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        logs = "\n".join(one.output() for one in nodes)
        assert all(one.process.poll() is None for one in nodes), f"a node ended:\n{logs}"
        assert time.monotonic() < end, f"timed out:\n{logs}"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------------- the script


def dry(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {"DRY_RUN": "1", "IMAGES_DIR": str(OPTIONS["images"]), "PATH": without_packages(), **variables}
    names = {**environment(Path("/nowhere"), **own)}
    return subprocess.run(["bash", str(SCRIPT), *arguments], env=names, capture_output=True, text=True, check=False)


def test_the_command_of_a_node() -> None:
    told = dry(NODES="2", NODE_RANK="1", HEAD="node0", RUN_NAME="first", NUM_PROCESSES="3", NUM_GPUS="0")
    assert told.returncode == 1
    assert "games_per_iteration=128 cannot be shared evenly by 6 processes; give --games_per" in told.stderr
    told = dry(NODES="2", NODE_RANK="1", HEAD="node0", RUN_NAME="first", NUM_PROCESSES="4", NUM_GPUS="0")
    words = "--nnodes 2 --node_rank 1 --rdzv_backend static --rdzv_endpoint node0:29500 --rdzv_id first"
    assert told.stdout.startswith(f"torchrun {words} --nproc_per_node 4 -m vision_zero.train ")
    told = dry(NODES="2", NODE_RANK="0", HEAD="10.0.0.1:5000", NUM_PROCESSES="4", NUM_GPUS="0")
    assert "--rdzv_endpoint 10.0.0.1:5000" in told.stdout
    assert dry(NODES="1", NODE_RANK="0", HEAD="node0").stdout.startswith("python -m vision_zero.train")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"NODES": "2", "NODE_RANK": "0"}, "NODES=2 needs HEAD, the address of node 0"),
        ({"NODES": "2", "HEAD": "a"}, "NODES=2 needs NODE_RANK, which differs on every node: 0 to 1"),
        ({"NODES": "2", "NODE_RANK": "2", "HEAD": "a"}, "NODE_RANK=2 must be below NODES=2"),
        ({"NODE_RANK": "1"}, "NODE_RANK=1 must be below NODES=1"),
        ({"NODES": "0"}, "NODES=0 must be at least 1"),
        ({"NODES": "two"}, "NODES=two is not a number"),
        ({"NODES": "2", "NODE_RANK": "0", "HEAD": "a:b"}, "HEAD=a:b must be HOST or HOST:PORT"),
        ({"NODES": "2", "NODE_RANK": "0", "HEAD": "a", "RUN_NAME": ""}, "NODES=2 needs RUN_NAME, the same on every"),
        ({"NODES": "2", "NODE_RANK": "0", "HEAD": "user@a"}, "HEAD=user@a:29500 must be HOST or HOST:PORT"),
        ({"NODES": "2", "NODE_RANK": "0", "HEAD": "a b"}, "HEAD=a b:29500 must be HOST or HOST:PORT"),
        ({"NODES": "2", "NODE_RANK": "0", "HEAD": "a:65536"}, "HEAD=a:65536 must be HOST or HOST:PORT"),
        ({"NODES": "2", "NODE_RANK": "0", "HEAD": "[::1]:29500"}, "HEAD=[::1]:29500 must be HOST or HOST:PORT"),
        ({"NODE_RANK": "0", "HEAD": "a"}, "HEAD=a is for several machines, and NODES is not set"),
    ],
)
def test_nodes_that_would_not_meet_are_refused(variables: dict[str, str], says: str) -> None:
    told = dry(**variables)
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (1, "", 1)
    assert says in told.stderr


@pytest.mark.parametrize(
    ("rank", "head", "says"),
    [
        (0, "127.0.0.1", "Timed out after [0-9]+ seconds waiting for clients. 1/2 clients joined."),
        (1, "127.0.0.1", "The client socket has timed out"),
        (1, "nowhere.invalid", "Name or service not known"),
    ],
)
def test_a_node_whose_others_do_not_come_says_so(rank: int, head: str, says: str, tmp_path: Path) -> None:
    head = f"{head}:{free_port()}"
    with node(rank, head, tmp_path, options_file(tmp_path), PET_RDZV_CONF="timeout=2") as one:
        assert one.process.wait(60) == 1
    (line,) = one.errors()
    assert one.output().splitlines()[-1] == line
    assert line.startswith(f"error: node {rank} of 2 does not meet the others at HEAD={head} (timeout=2): ")
    assert re.search(says, line)
    assert "Traceback" not in one.output()


def test_a_head_that_only_this_machine_finds_is_refused(tmp_path: Path) -> None:
    """Debian gives a machine's own name to 127.0.1.1; gloo would tell the others that address."""
    if not socket.gethostbyname(socket.gethostname()).startswith("127."):
        pytest.skip("this machine's name is no loopback")
    with node(0, socket.gethostname(), tmp_path, options_file(tmp_path), PET_RDZV_CONF="timeout=2") as one:
        assert one.process.wait(60) == 1
    (line,) = one.errors()
    assert f"HEAD={socket.gethostname()} is 127." in line


# ------------------------------------------------------------------------------------------- what nodes must share

AGREE = """
import os, sys
from contextlib import ExitStack
from pathlib import Path
from accelerate import PartialState
from vision_zero import ranks, train
from vision_zero.data.folder_lock import locked
ranks.join(60, 60, "gloo")
state, rank = PartialState(cpu=True), int(os.environ["RANK"])
os.environ |= {"GROUP_WORLD_SIZE": "2", "LOCAL_RANK": "0"}
state.local_process_index = 0
folder, other, *differs = map(Path, sys.argv[1:])
with ExitStack() as lock, ranks.one_error():
    try:
        if rank == 0:
            lock.enter_context(locked(folder))
        train.check_folder_is_shared(other if rank else folder, 1)
        what = str(differs[0]) if rank and differs else ""
        config = {"seed": 2 if what == "option" else 1, "rho": 0.5}
        prints = [{"id": what if what == "pairs" else ""}]
        train.check_nodes_agree(state, config, prints, {"config.json": what if what == "model" else ""})
    except ValueError as error:
        sys.exit(f"error: {error}")
"""


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ("", ()),
        ("folder", (" on {host} is not the folder in which process ", " on {host} writes the run: choose an ")),
        ("option", ("--seed of host {host} is not that of {host}: all nodes must have the same",)),
        ("pairs", ("its image pairs of host {host} is not that of {host}: all nodes must have the same",)),
        ("model", ("config.json of host {host} is not that of {host}: all nodes must have the same",)),
    ],
)
def test_what_nodes_do_not_share_is_told(differs: str, says: tuple[str, ...], tmp_path: Path) -> None:
    run, other, log = tmp_path / "run", tmp_path / "other", tmp_path / "log"
    words = [str(run), str(other if differs == "folder" else run), *([differs] if differs else [])]
    process = ForkedProcess(["-c", AGREE, *words], {**os.environ, **ENVIRONMENT}, log, processes=2)
    assert process.wait(60) == (1 if differs else 0), log.read_text()
    lines = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(lines) == (1 if differs else 0)
    assert all(one.format(host=socket.gethostname()) in lines[0] for one in says)


# --------------------------------------------------------------------------------------------------------- two nodes


@dataclass(frozen=True)
class Network:
    """Two network namespaces with a cable between, each with a host name and process ids of its own."""

    name: str

    def prefix(self, rank: int) -> list[str]:
        shell = f'hostname node{rank}; exec "$@"'
        enter = ["ip", "netns", "exec", f"{self.name}-{rank}", "unshare", "--uts", "--pid", "--fork", "--kill-child"]
        return [*enter, "bash", "-c", shell, "bash"]

    def unplug(self) -> None:
        subprocess.run(["ip", "-n", f"{self.name}-1", "link", "set", "one", "down"], check=True)


HEAD = "10.73.0.1"


@pytest.fixture
def network() -> Iterator[Network]:
    name = f"vz{os.getpid()}"
    commands = [
        f"netns add {name}-0",
        f"netns add {name}-1",
        f"link add zero netns {name}-0 type veth peer name one netns {name}-1",
        f"-n {name}-0 addr add {HEAD}/24 dev zero",
        f"-n {name}-1 addr add 10.73.0.2/24 dev one",
        *(f"-n {name}-{rank} link set {device} up" for rank, device in ((0, "lo"), (1, "lo"), (0, "zero"), (1, "one"))),
    ]
    try:
        for command in commands:
            try:
                subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)
            except FileNotFoundError:
                pytest.skip("no network namespaces: the program ip is not there")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: ip {command}: {error.stderr.strip()}")
        yield Network(name)
    finally:
        for rank in (0, 1):
            with suppress(FileNotFoundError):
                subprocess.run(["ip", "netns", "del", f"{name}-{rank}"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that is not broken."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train_well(run, **TWO)
    return run


def test_two_nodes_play_the_games_of_one_process(network: Network, whole: Path, tmp_path: Path) -> None:
    words = options_file(tmp_path)
    with (
        node(1, HEAD, tmp_path, words, network.prefix(1)) as one,
        node(0, HEAD, tmp_path, words, network.prefix(0)) as zero,
    ):
        assert zero.process.wait(TIMEOUT) == 0, zero.output() + one.output()
        assert one.process.wait(60) == 0, one.output()
    run = tmp_path / "runs" / "run"
    assert_same_games(whole, run)
    assert_same_metrics(whole, run)
    losses = [[line["loss"] for line in metrics(one)] for one in (run, whole)]
    cells = [*(f"{loss:.7f}" for loss in losses[0]), f"{max(abs(a - b) for a, b in zip(*losses, strict=True)):.0e}"]
    print(f"| 2 nodes × 1 | `NODES=2`, by the launch script | {' | '.join(cells)} |")
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert "| 2 nodes × 1 | `NODES=2`, by the launch script |" in page
    assert len(list((run / "checkpoint-4").glob("rng_state_*.pth"))) == 2
    assert zero.output().count("done: load") == 1
    assert one.output().splitlines() == [f"node 1 of 2 (0 to 1) of {run}; node 0 is at {HEAD}:29500"]


@pytest.mark.slow
@pytest.mark.fault("a node lost")
@pytest.mark.parametrize("unplugged", [False, True], ids=["killed", "unplugged"])
@pytest.mark.parametrize("lost", [1, 0])
def test_a_lost_node_is_named_and_the_run_goes_on_without_it(
    lost: int, unplugged: bool, network: Network, whole: Path, tmp_path: Path
) -> None:
    """Killed, its connections are closed; without its cable it is silent, and the limit of waits ends the run."""
    run, words = tmp_path / "runs" / "run", options_file(tmp_path, ddp_timeout=15)
    with (
        node(1, HEAD, tmp_path, words, network.prefix(1)) as one,
        node(0, HEAD, tmp_path, words, network.prefix(0)) as zero,
    ):
        left, gone = (zero, one) if lost else (one, zero)
        wait_until((run / "checkpoint-1" / "COMPLETE").exists, zero, one)
        if unplugged:
            network.unplug()
        for pid in descendants(gone.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        assert left.process.wait(60) == 1, left.output()
        seconds = time.monotonic() - killed
    (line,) = left.errors()
    assert f"host node{lost}" in line
    assert f"The last good checkpoint is {run}/checkpoint-" in line
    assert seconds < (15 if unplugged else 0) + 15
    assert "Traceback" not in left.output()
    done = len(complete_checkpoints(run))
    assert 1 <= done < 4
    alone = environment(tmp_path / "runs", RESUME="1")
    again = subprocess.run(["bash", str(SCRIPT)], env=alone, capture_output=True, text=True, timeout=TIMEOUT)
    assert again.returncode == 0, again.stderr
    assert "resumed on 1 processes (was 2)" in again.stderr
    assert_same_games(whole, run)
    assert_same_metrics(whole, run)


# ------------------------------------------------------------------------------------------------------------- Slurm


def sbatch(
    folder: Path, attempts: str, arguments: Sequence[str], cwd: Path = ROOT, **variables: str
) -> subprocess.Popen[bytes]:
    own = {"STAND_IN": str(folder), "NODES_OF_ATTEMPTS": attempts, "HEAD_PORT": str(free_port()), **variables}
    names = environment(folder / "runs", **own)
    names["PATH"] = f"{SLURM}:{without_packages() if 'DRY_RUN' in variables else names['PATH']}"
    with (folder / "log").open("wb") as file:
        return subprocess.Popen(
            [str(SLURM / "sbatch"), "run_scripts/slurm.sbatch", *arguments],
            cwd=cwd,
            env=names,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


@pytest.mark.slow
@pytest.mark.parametrize("attempts", ["127.0.0.1,127.0.0.2 127.0.0.1,127.0.0.2", "127.0.0.1,127.0.0.2 127.0.0.1"])
def test_a_slurm_job_saves_is_queued_again_and_resumes(attempts: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    job = sbatch(tmp_path, attempts, options_file(tmp_path, save_steps=4))
    here = Node(job, tmp_path / "log")
    try:
        wait_until((run / "metrics.jsonl").exists, here)
        os.kill(int((tmp_path / "shell").read_text()), signal.SIGUSR1)  # as --signal=B:USR1@900 does
        assert job.wait(TIMEOUT) == 0, here.output()
    finally:
        for pid in descendants(job.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    said = here.output()
    assert "Traceback" not in said
    assert said.count("stopped by SIGUSR1: the run is saved at") == 1
    assert "is saved, the job is queued again\nattempt 0 ended with 143\n" in said
    assert said.rstrip().endswith("attempt 1 ended with 0")
    assert f"continuing {run}" in said
    assert_same_games(whole, run)
    assert_same_metrics(whole, run)


def test_a_job_with_servers(tmp_path: Path) -> None:
    """Two nodes train, the third serves: what each of them would run."""
    names = {
        "SERVER_NODES": "1",
        "DRY_RUN": "1",
        "IMAGES_DIR": str(OPTIONS["images"]),
        "MODEL": str(ROOT / "data/tiny_vlm"),
    }
    job = sbatch(tmp_path, "a,b,c", ["--iterations", "3", "--max_pixels", "7777"], **names)
    assert job.wait(120) == 0, (tmp_path / "log").read_text()
    lines = [shlex.split(line) for line in (tmp_path / "log").read_text().splitlines()]
    trainers = sorted((line for line in lines if line[0] == "torchrun"), key=lambda line: line[4])
    (server,) = [line for line in lines if "vllm.entrypoints.launchers.api_server.entry" in line]
    assert [line[line.index("--node_rank") + 1] for line in trainers] == ["0", "1"]
    for line in trainers:
        assert line[line.index("--rdzv_endpoint") + 1].startswith("a:")
        assert line[line.index("--vllm_server_base_url") + 1] == "http://c:8000"
        assert line[line.index("--vllm_mode") + 1] == "server"
        assert line[-4:] == ["--iterations", "3", "--max_pixels", "7777"]
    assert server[server.index("--host") + 1] == "c"
    assert json.loads(server[server.index("--mm-processor-kwargs") + 1]) == {"max_pixels": 7777}


def test_a_server_that_does_not_end_holds_no_job(tmp_path: Path) -> None:
    scripts = tmp_path / "run_scripts"
    scripts.mkdir()
    shutil.copy(ROOT / "run_scripts" / "slurm.sbatch", scripts)
    (scripts / "run_grpo_vision_zero.sh").write_text("NODES=1\nsleep 1; echo trained\n", "utf-8")
    (scripts / "vllm_server.sh").write_text("trap '' TERM; sleep 20\n", "utf-8")
    job = sbatch(tmp_path, "a,b", [], cwd=tmp_path, SERVER_NODES="1")
    assert job.wait(10) == 0
    assert "trained" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("words", "size"),
    [(["--max-pixels", "8888"], 8888), (["--max_pixels=8888"], 8888), ([], 3136), (["--config", "{}"], 3136)],
)
def test_servers_of_a_job_get_the_runs_images(words: list[str], size: int, tmp_path: Path) -> None:
    """However the option is spelled, and from a file that takes the place of the script's."""
    given = options_file(tmp_path)
    names = {"SERVER_NODES": "1", "DRY_RUN": "1", "MODEL": str(OPTIONS["model_name_or_path"])}
    words = [word.format(given[1]) for word in words] if "--config" in words else [*given, *words]
    job = sbatch(tmp_path, "a,c", words, **names)
    assert job.wait(120) == 0, (tmp_path / "log").read_text()
    (server,) = [line for line in (tmp_path / "log").read_text().splitlines() if "api_server.entry" in line]
    assert json.loads(shlex.split(server)[shlex.split(server).index("--mm-processor-kwargs") + 1]) == {
        "max_pixels": size
    }


LORA = ["--enable-lora", "--max-lora-rank"]


@pytest.mark.parametrize(
    ("words", "config", "served"),
    [
        (["--lora_r", "9"], {}, [*LORA, "16"]),
        ([], {}, [*LORA, "32"]),
        ([], {"use_peft": True, "lora_target_modules": "language"}, [*LORA, "16"]),
        ([], {"use_peft": True, "lora_target_modules": "language", "lora_r": 65}, [*LORA, "128"]),
        ([], {"lora_r": 8}, []),
        (["--load_in_4bit=true"], {}, []),
        (["--use-dora", "true"], {}, []),
        (["--lora_target_modules", "q_proj", "v_proj"], {}, []),
        (["--lora_r", "600"], {}, []),
    ],
)
def test_servers_of_a_job_load_the_adapters_that_they_can(
    words: list[str], config: dict[str, Any], served: list[str], tmp_path: Path
) -> None:
    """And the model that the run has, whichever way it is named."""
    model = str(OPTIONS["model_name_or_path"])
    names = {"SERVER_NODES": "1", "ADAPTERS_ALONE": "1", "DRY_RUN": "1", "SCRIPT": "run_lora_1gpu.sh"}
    names["IMAGES_DIR"] = str(OPTIONS["images"])
    words = ["--model_name_or_path", model, *words]
    if config:
        words = ["--config", str(tmp_path / "own.yaml")]
        lines = yaml.safe_dump({"model_name_or_path": model, **config}).splitlines()
        (tmp_path / "own.yaml").write_text("".join(f"{line}  # why\n" for line in lines), "utf-8")
    job = sbatch(tmp_path, "a,c", words, **names)
    assert job.wait(120) == 0, (tmp_path / "log").read_text()
    (line,) = [line for line in (tmp_path / "log").read_text().splitlines() if "api_server.entry" in line]
    server = shlex.split(line)
    assert server[server.index("--model") + 1] == model
    assert [word for word in server if word in served or word == "--enable-lora"] == served
    assert ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in server) == bool(served)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SERVER_NODES": "two"}, "SERVER_NODES=two is not a number"),
        ({"SERVER_NODES": "-1"}, "SERVER_NODES=-1 is not a number"),
        ({"SERVER_NODES": "2"}, "SERVER_NODES=2 of 2 nodes leave none to train"),
        ({"SCRIPT": "nothing.sh"}, "run_scripts/nothing.sh is not in"),
        ({"SCRIPT": "toy_selfplay.sh"}, "SCRIPT=toy_selfplay.sh does not read NODES"),
        ({"SCRIPT": "vllm_server.sh"}, "SCRIPT=vllm_server.sh does not read NODES"),
    ],
)
def test_a_job_that_would_not_train_is_refused(variables: dict[str, str], says: str, tmp_path: Path) -> None:
    job = sbatch(tmp_path, "a,b", [], DRY_RUN="1", **variables)
    assert job.wait(60) == 1
    first, *_ = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("slurm.sbatch: error: ")
    assert says in first


@pytest.mark.slow
def test_a_job_that_made_no_progress_is_not_queued_again(tmp_path: Path) -> None:
    """It would be, for ever."""
    run = tmp_path / "runs" / "run"
    job = sbatch(tmp_path, "a a", options_file(tmp_path, grace=0, games_per_iteration=64))
    here = Node(job, tmp_path / "log")
    try:
        wait_until(lambda: "self-check:" in here.output(), here)
        os.kill(int((tmp_path / "shell").read_text()), signal.SIGUSR1)
        assert job.wait(TIMEOUT) == 1, here.output()
    finally:
        for pid in descendants(job.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert "error: no iteration was finished and saved in this time; give the job a longer --time" in here.output()
    assert complete_checkpoints(run) == []


def test_slurm_script_is_clean() -> None:
    script = ROOT / "run_scripts" / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    subprocess.run([str(Path(sys.executable).parent / "shellcheck"), "-x", str(script)], cwd=ROOT, check=True)
