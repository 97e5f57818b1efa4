"""A real vLLM server on the CPU, started by the script that users start theirs with, and its weights without NCCL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vision_zero.rollout.vllm.client import ServerConnection, ServerOptions
from vision_zero.rollout.vllm.server import ServerEngine, WeightSender

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 500.0  # of a busy machine
DRIP = object()
BLOCK_SIZE = 32  # of the prefix cache: small, so that short prompts reuse some


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def unused_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


@dataclass(frozen=True)
class RunningServer:
    url: str
    process: subprocess.Popen[str]

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers, which `vllm_server` put into a session of their own."""
        os.killpg(self.process.pid, number)


@contextmanager
def vllm_server(model: Path, max_pixels: int, log: Path, *options: str) -> Iterator[RunningServer]:
    """A server that is up, with `options` of `vllm serve`. It is killed, with its workers, when the block ends."""
    port = free_port()
    environment = {
        **os.environ,
        "MODEL": str(model),
        "MAX_PIXELS": str(max_pixels or ""),
        "NUM_GPUS": "0",
        "PORT": str(port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    more = [
        "--max-model-len",
        "1024",
        "--worker-extension-cls",
        "tests.vllm_cpu_worker.CPUWorker",
        "--block-size",
        str(BLOCK_SIZE),
    ]
    more += ["--distributed-executor-backend", "tests.vllm_cpu_worker.EngineAndWorker", *options]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            ["bash", str(ROOT / "run_scripts" / "vllm_server.sh"), *more],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    server = RunningServer(f"http://127.0.0.1:{port}", process)
    try:
        connection = ServerConnection(ServerOptions(server.url))
        end = time.monotonic() + START_TIMEOUT
        while not connection.is_up():
            assert process.poll() is None, log.read_text("utf-8")[-6000:]
            assert time.monotonic() < end, log.read_text("utf-8")[-6000:]
            time.sleep(0.5)
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.signal(signal.SIGKILL)
        process.wait()


class DiskSender(WeightSender):
    """The client for weights, but they go through a file that the workers of all servers read."""

    def update_named_params(self, metadata: Any, named_params: Iterator[tuple[str, torch.Tensor]]) -> None:
        weights = {name: weight.detach().clone().contiguous() for name, weight in named_params}
        assert [name for name, *_ in metadata] == list(weights)
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            save_file(weights, file.name)
            rpc = {"method": "load_weights_of", "kwargs": {"file": file.name}}
            self._post("/collective_rpc", json=rpc)


class DiskEngine(ServerEngine):
    """`folder` is that of adapters, which are not used."""

    def __init__(self, *given: Any, folder: Path = Path("unused")) -> None:
        super().__init__(*given, folder=folder)

    def check_device(self) -> None:
        pass

    def weight_channel(self) -> WeightSender:
        return DiskSender(self.servers)


class StubServer(ThreadingHTTPServer):
    """Answers every path with the status and JSON that `answers` has for it, 404 for others.

    Bytes are sent as they are; DRIP sends a byte now and then, without end.
    """

    def __init__(self, answers: Mapping[str, tuple[int, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _StubHandler)
        self.answers = answers
        self.url = f"http://127.0.0.1:{self.server_port}"


class _StubHandler(BaseHTTPRequestHandler):
    server: StubServer

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content = self.server.answers.get(self.path.partition("?")[0], (404, {"detail": "Not Found"}))
        if content is DRIP:
            self.send_response(status)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with suppress(OSError):  # until the client goes
                while True:
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def stub_server(answers: Mapping[str, tuple[int, Any]]) -> Iterator[str]:
    """The url of a server that is not vLLM and says what the test wants."""
    with StubServer(answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()
