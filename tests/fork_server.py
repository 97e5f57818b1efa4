"""Processes that run a program and need no import of torch, transformers and TRL, because they are forked after it.

The imports take 10 CPU seconds, ten times what the smallest training run takes. A fork server (the one of
`multiprocessing`) does them once for all workers of pytest-xdist and forks for every run. What runs is a process as
real as one of `python -m`: the program is executed from its first line as `__main__`, in a session of its own, with its
own environment and seeds of `random` and numpy, its exit handlers run, and it can be killed at any moment. Several
ranks get what torchrun would put into their environment. Not shown by such a run, and left to tests that start `python`
anew: the command line of torchrun, imports, and another seed of string hashes.

DeepSpeed compiles, for 80 CPU seconds on a machine that is new to it, a sum in shared memory that training never calls;
here it does without, as it does where it is not on Linux.

A fork copies the calling thread alone. The server has no other: OMP_NUM_THREADS is 1 when torch is imported, and
nothing is computed before the fork.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import gc
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import IO, Any

import numpy as np

ROOT = Path(__file__).parent.parent
VLLM_ON_CPU = {
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    **VLLM_ON_CPU,
}
PRELOADED = [
    "vision_zero.train",
    "deepspeed",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.tokenization_mistral_common",  # by every processor that is loaded
    "tests.quicker_libraries",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_starting = threading.Lock()
SHARED: Path | None = None
"""A file in which the workers of one test run tell each other of their server, set by `conftest.py`."""


class ForkedProcess:
    """What `subprocess.Popen` says of a process, for a forked one."""

    def __init__(
        self,
        program: Sequence[str],
        environment: Mapping[str, str],
        output: Path | str,
        processes: int = 1,
        cwd: Path | str = ".",
    ) -> None:
        _start_server()
        how = (list(program), dict(environment), str(output), processes, str(cwd))
        self._process = _CONTEXT.Process(target=_run, args=how)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("forked run", timeout)
        return self._process.exitcode


def popen(
    command: Sequence[str], *, env: Mapping[str, str], stdout: IO[Any], cwd: Path | None, **_: Any
) -> ForkedProcess:
    """In place of `subprocess.Popen` where a command of `sys.executable` writes to a file."""
    assert command[0] == sys.executable
    return ForkedProcess(command[1:], env, stdout.name, cwd=cwd or ".")


CLIENT = """#!{python} -SE
import json, os, socket, sys
if "{program}" not in sys.argv or os.environ.get("PYTHONPATH") != "{source}":
    os.execv("{python}", ["{python}", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    server.sendall(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode() + b"\\n")
    status, output = json.loads(server.makefile().read())
print(output, end="", flush=True)
sys.exit(status)
"""


@functools.cache
def folder_of_shared_python() -> Path:
    """A folder for PATH whose `python` is this one, but that a fork checks options."""
    folder = Path(tempfile.mkdtemp(prefix="python-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket"))
    server.listen()
    program = ROOT / "run_scripts" / "check_options.py"
    words = {"python": sys.executable, "source": ROOT / "src", "address": folder / "socket", "program": program}
    (folder / "python").write_text(CLIENT.format(**words), "utf-8")
    (folder / "python").chmod(0o755)

    def serve() -> None:
        while True:
            client, _ = server.accept()
            with client, client.makefile("rw", encoding="utf-8") as file:
                program, environment, cwd = json.loads(file.readline())
                output = folder / "output"
                output.unlink(missing_ok=True)
                status = ForkedProcess(program, environment, output, cwd=cwd).wait()
                file.write(json.dumps([status, output.read_text("utf-8")]))

    threading.Thread(target=serve, daemon=True).start()
    return folder


@functools.cache
def without_packages() -> str:
    """A PATH whose `python` finds nothing installed."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (folder / "python").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def _start_server() -> None:
    """Start the server, or use the one that another worker of pytest-xdist has started."""
    with _starting:
        if forkserver._forkserver._forkserver_pid is not None:
            return
        if SHARED is None:
            _start_own_server()
            return
        with SHARED.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if not _join_server(file.read()):
                _start_own_server()
                file.truncate(0)
                file.write(_shared_server())


def _shared_server() -> str:
    """The server of this process, as `_join_server` reads it. Its socket is moved to where it outlives this process."""
    server = forkserver._forkserver
    socket_file = f"{SHARED}.socket"
    os.rename(server._forkserver_address, socket_file)
    server._forkserver_address = socket_file
    return f"{server._forkserver_pid} /proc/{os.getpid()}/fd/{server._forkserver_alive_fd}"


def _join_server(written: str) -> bool:
    """Use the server of another worker; False if there is none. It lives until all have closed their end of a pipe."""
    server: Any = forkserver._forkserver
    try:
        pid, pipe = written.split()
        server._forkserver_alive_fd = os.open(pipe, os.O_WRONLY)
    except (ValueError, OSError):
        return False
    server._forkserver_pid, server._forkserver_address = int(pid), f"{SHARED}.socket"
    server.ensure_running = lambda: None  # it would wait for the server, which is no child of this process
    return True


def _start_own_server() -> None:
    _CONTEXT.set_forkserver_preload(PRELOADED)
    kept = dict(os.environ)
    os.environ.update(ENVIRONMENT)  # what is read at imports
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _run(program: list[str], environment: dict[str, str], output: str, processes: int, cwd: str) -> None:
    import deepspeed  # by the server: it is among PRELOADED

    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY)
    for standard in (1, 2):
        os.dup2(file, standard)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if any("wandb" in word for word in program):
        from wandb.sdk.data_types._private import MEDIA_TMP

        MEDIA_TMP.__init__("wandb-media")  # a folder made at the import, so the server's; whoever ends removes it
    gc.freeze()
    if processes == 1:
        _exit_as(program)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = []
    for rank in range(processes):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            _exit_as(program)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # a signal to the session is for the ranks, whose end is waited for
    statuses = {os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks}
    os._exit(statuses.pop() % 256 if len(statuses) == 1 else 1)


def _exit_as(program: list[str]) -> None:
    """End this process as `python *program` ends: `-m MODULE`, `-c CODE` or a file, then its arguments."""
    random.seed()
    np.random.seed()  # noqa: NPY002 (the global generator, which libraries draw from)
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if program[0] == "-m":
            sys.modules.pop(program[1], None)  # preloaded: executed again, as what it is when it is the program
            sys.argv = program[1:]
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        elif program[0] == "-c":
            sys.argv = ["-c", *program[2:]]
            exec(compile(program[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = program[:]
            runpy.run_path(program[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
