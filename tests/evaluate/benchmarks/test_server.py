"""A model behind an OpenAI-style API: what it is asked, what it answers, and that it ends when it should."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests import fork_server
from tests.process_helpers import ROOT, TINY_VLM, without_weight
from tests.trainer.test_families import save_internvl
from tests.vllm_server_helpers import unused_url
from vision_zero.data.drawn_scenes import draw, scenes_of
from vision_zero.evaluate.benchmarks import processes
from vision_zero.evaluate.benchmarks.main import check_judge
from vision_zero.evaluate.benchmarks.options import BenchmarkConfig
from vision_zero.evaluate.benchmarks.processes import ProcessFailedError, Server, served, started, wait_for
from vision_zero.evaluate.benchmarks.server.model import ChatModel, boxed_answer, read_request

OF_THE_MODEL: dict[str, Any] = {"use_cpu": True, "min_pixels": 3136, "max_pixels": 100352}
"""The tiny model's own bounds: VLMEvalKit's, of its family, are of much larger images."""


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("I think \\boxed{B}.", "B"),
        ("\\boxed{A} or rather \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("no box", "no box"),
        ("\\boxed{cut off", "cut off"),
        ("a} b", "a"),
        ("\\boxed{}", ""),
    ],
)
def test_the_last_box_is_the_answer(completion: str, answer: str) -> None:
    assert boxed_answer(completion) == answer


@given(st.text(st.characters(exclude_characters="{}\\")), st.text())
def test_whatever_stands_before_a_box(answer: str, before: str) -> None:
    assert boxed_answer(f"{before}\\boxed{{{answer}}} after") == answer


def url_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def body(seed: int = 0, text: str = "name one", **more: Any) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": url_of(draw(scenes_of(seed)[0]))}}
    return {
        "model": "any",
        "messages": [{"role": "user", "content": [image, {"type": "text", "text": text}]}],
        "max_tokens": 12,
        **more,
    }


def test_a_request() -> None:
    request = read_request({**body(), "messages": [{"role": "system", "content": "s"}, *body()["messages"]]}, 99)
    assert request.max_tokens == 12
    assert request.messages[0] == {"role": "system", "content": "s"}
    assert request.messages[1]["content"] == [{"type": "image"}, {"type": "text", "text": "name one"}]
    assert [image.size for image in request.images] == [(112, 112)]
    assert read_request({"messages": [{"role": "user", "content": "x"}]}, 99).max_tokens == 99
    assert read_request(body(max_tokens=500), 99).max_tokens == 99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": []}, "messages: must be a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "every message needs a role"),
        ({"messages": [{"role": "user", "content": 3}]}, "content must be a text or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "a part of type 'video'"),
        ({"temperature": 0.5}, "temperature=0.5"),
        ({"n": 2}, "n=2: one answer"),
        ({"stream": True}, "stream: answers come whole"),
        ({"max_tokens": -1}, "max_tokens=-1"),
    ],
)
def test_requests_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_request({**body(), **change}, 99)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://127.0.0.1/x.png", "data:image/png;base64,AAAA", None])
def test_images_come_with_the_request_and_from_nowhere_else(url: Any) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(ValueError, match="image_url: "):
        read_request({"messages": [{"role": "user", "content": [part]}]}, 99)


def in_message(*data: bytes) -> dict[str, Any]:
    urls = [f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in data]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": parts}]}


def picture(kind: str, size: tuple[int, int] = (64, 48), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind)
    return stream.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(gone) print\n%%EOF\n"


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([EPS], "not an image of a known format"),  # which Pillow gives to Ghostscript
        ([picture("ICO")], "not an image of a known format"),
        ([picture("TGA")], "not an image of a known format"),
        ([b""], "the image has no bytes"),
        ([picture("PNG")[:-30]], "damaged or truncated"),
        ([picture("PNG", (1, 400))], "differ by more than 200:1"),
        ([picture("PNG", (9_000, 9_000), "1")], "more than the allowed 80000000 pixels"),  # of 14 kB
        ([picture("PNG", (5_000, 9_000), "1")] * 2, "the images of a request have more than 80000000 pixels"),
    ],
)
def test_images_are_of_the_formats_and_sizes_that_are_trained_on(images: list[bytes], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_request(in_message(*images), 99)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_images_of_usual_formats_are_read(kind: str) -> None:
    (image,) = read_request(in_message(picture(kind)), 99).images
    assert (image.mode, image.size) == ("RGB", (64, 48))


def test_a_batch_is_answered_as_its_requests_are_alone() -> None:
    model = ChatModel.load(str(TINY_VLM), use_cpu=True)
    questions = ["name one", "what shape is red?", "red cube there?", "how many sphere?"]
    requests = [read_request(body(seed, text), 12) for seed, text in enumerate(questions)]
    alone = [model.answer([request])[0].text for request in requests]
    together = model.answer(requests)
    assert [one.text for one in together] == alone
    assert all(text.startswith("\\boxed{") for text in alone)
    short = model.answer([read_request(body(max_tokens=2), 12), requests[1]])
    assert (short[0].new_tokens, short[0].truncated) == (2, True)
    assert short[1].text == alone[1]


def test_another_family_is_served_alike(tmp_path: Path) -> None:
    save_internvl(tmp_path / "internvl")
    model = ChatModel.load(str(tmp_path / "internvl"), use_cpu=True, system_prompt="think")
    requests = [read_request(body(seed, text), 6) for seed, text in enumerate(("name one", "what is where?"))]
    assert model.prompt(requests[0]).count("think") == 1
    alone = [model.answer([request])[0] for request in requests]
    assert model.answer(requests) == alone
    assert all(one.prompt_tokens > 20 for one in alone)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    config = BenchmarkConfig(max_new_tokens=12, keep_requests=True, server_timeout=300, **OF_THE_MODEL)
    with served(str(TINY_VLM), "tiny", config, folder) as up:
        yield up
    assert up.process.poll() is not None


def ask(server: Server, content: Any, path: str = "/v1/chat/completions") -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=content, timeout=120, trust_env=False)


def test_many_ask_at_once(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: ask(server, body(seed)), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    choices = [answer.json()["choices"][0] for answer in answers]
    assert all(choice["finish_reason"] == "stop" for choice in choices)
    assert not any("boxed" in choice["message"]["content"] for choice in choices)  # post_process is on
    counts = server.counts()
    assert counts["answered"] >= 8
    assert counts["batches"] < counts["answered"]
    kept = (server.log.parent / "requests.jsonl").read_text().splitlines()
    assert len(kept) == counts["answered"]
    assert json.loads(kept[0])["request"]["max_tokens"] == 12


def test_what_cannot_be_answered_says_why(server: Server) -> None:
    refused = ask(server, {"messages": []})
    assert refused.status_code == 400
    assert "messages: must be a list" in refused.json()["error"]["message"]
    assert ask(server, {}, "/v2").status_code == 404
    assert httpx.get(f"{server.url}/v1/models", trust_env=False).json()["data"][0]["id"] == "tiny"
    assert ask(server, {"messages": [{"role": "user", "content": "no image"}]}).status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Content-Length: -1", 411),
        ("Content-Length: many", 411),
        ("Content-Length: 1e3", 411),
        ("Content-Length: 1_0", 411),
        ("Content-Length: ", 411),
        ("X-Nothing: 1", 411),
        ("Transfer-Encoding: chunked", 411),
        ("Content-Length: 99999999999", 413),
        (f"Content-Length: {'9' * 5000}", 413),
    ],
)
def test_a_request_of_unknown_length_is_refused_at_once(server: Server, header: str, status: int) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as asking:
        asking.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: it\r\n{header}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: asking.recv(4096), b""))  # to the end: the connection is closed
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert ask(server, body()).status_code == 200


def test_json_of_any_depth_is_answered(server: Server) -> None:
    deep = httpx.post(f"{server.url}/v1/chat/completions", content="[" * 100_000, timeout=60, trust_env=False)
    assert deep.status_code == 400


def test_a_judge_is_asked_before_the_start(server: Server) -> None:
    check_judge("tiny", f"{server.url}/v1")
    with pytest.raises(ValueError, match=r"--judge_url .*/v2, --judge_model tiny: says 404: .*no such path"):
        check_judge("tiny", f"{server.url}/v2")
    for url in (unused_url(), "nonsense"):
        with pytest.raises(ValueError, match=f"--judge_url {url}, --judge_model tiny: no answer: "):
            check_judge("tiny", url)


def test_a_model_that_lacks_weights_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a server that is forked: the one above was started anew."""
    standard = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT", "TimeoutExpired")}
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=fork_server.popen, **standard))
    lacking = without_weight(TINY_VLM, tmp_path / "lacking", "layers.2.mlp")
    log = tmp_path / "server.log"
    with (
        pytest.raises(ProcessFailedError, match="its files lack the weights") as failed,
        served(str(lacking), "x", BenchmarkConfig(**OF_THE_MODEL), tmp_path),
    ):
        pass
    assert f"(log: {log})" in str(failed.value)


def test_one_that_is_not_up_in_time_is_ended(tmp_path: Path) -> None:
    with (
        pytest.raises(ProcessFailedError, match=r"was not up after 0 s[\s\S]*more time: --server_timeout"),
        served(str(TINY_VLM), "x", BenchmarkConfig(server_timeout=0.3, **OF_THE_MODEL), tmp_path),
    ):
        pass


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c",
    "import os, time; from vision_zero.evaluate.benchmarks.server.server import end_with; end_with(os.getppid());"
    "print('up', flush=True); time.sleep(300)"], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
child.wait()
"""


def test_a_server_ends_with_a_parent_that_was_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    child, up = parent.stdout.readline().split()
    assert up == "up"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(int(child))


def gone(process: int) -> bool:
    """Whether a process ends within some seconds; one that nobody waited for is gone too."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_what_a_process_started_is_ended_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '300']).pid, flush=True); time.sleep(300)"
    log = tmp_path / "log"

    def interrupted() -> None:
        with started([sys.executable, "-c", code], log, os.environ):
            while not log.read_text().strip():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gone(int(log.read_text()))


def test_a_process_that_fails_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        pytest.raises(ProcessFailedError, match=r"ended with status 3:\n  \| reason\n\(log: .*log\)"),
        started([sys.executable, "-c", "print('reason'); raise SystemExit(3)"], log, os.environ) as process,
    ):
        wait_for(process, log)
    with pytest.raises(ProcessFailedError, match="cannot start no/such/program"), started(["no/such/program"], log, {}):
        pass
