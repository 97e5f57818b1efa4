"""A real vLLM server on the CPU, started by the script that users start theirs with, and its weights without NCCL."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from trl.generation.vllm_client import VLLMClient

from vision_zero.rollout.vllm_connection import ServerConnection, ServerOptions
from vision_zero.rollout.vllm_server import ServerEngine

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 300.0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def unused_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


@contextmanager
def vllm_server(model: Path, max_pixels: int, log: Path) -> Iterator[str]:
    """The url of a server that is up. It is killed, with its workers, when the block ends."""
    port = free_port()
    environment = {
        **os.environ,
        "MODEL": str(model),
        "MAX_PIXELS": str(max_pixels),
        "MAX_MODEL_LEN": "1024",
        "NUM_GPUS": "0",
        "PORT": str(port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    url = f"http://127.0.0.1:{port}"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [
                "bash",
                str(ROOT / "run_scripts" / "vllm_server.sh"),
                "--worker-extension-cls",
                "tests.vllm_cpu_worker.CPUWorker",
            ],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        connection = ServerConnection(ServerOptions(url))
        end = time.monotonic() + START_TIMEOUT
        while not connection.is_up():
            assert process.poll() is None, log.read_text("utf-8")[-6000:]
            assert time.monotonic() < end, log.read_text("utf-8")[-6000:]
            time.sleep(0.5)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class DiskClient(VLLMClient):
    """TRL's client, but weights go through a file that the server's workers read."""

    def update_named_params(self, metadata: Any, named_params: Iterator[tuple[str, torch.Tensor]]) -> None:
        weights = {name: weight.detach().clone().contiguous() for name, weight in named_params}
        assert [name for name, *_ in metadata] == list(weights)
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            save_file(weights, file.name)
            rpc = {"method": "load_weights_of", "kwargs": {"file": file.name}}
            self._post(f"{self.base_url}/collective_rpc", json=rpc)


class DiskEngine(ServerEngine):
    def weight_channel(self) -> VLLMClient:
        return DiskClient(base_url=self.options.url)
