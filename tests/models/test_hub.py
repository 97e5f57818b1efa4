"""The Hub is asked once, and not for long: what it says of a model becomes one line with what to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.fork_server import ENVIRONMENT, free_port

CONFIG = json.dumps({"model_type": "qwen2_5_vl"}).encode()
ADAPTER = json.dumps({"base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}).encode()
SECONDS = 1.0


class Hub(BaseHTTPRequestHandler):
    """Answers by the name of the model: its status, what the Hub calls the error, or something slow."""

    answered: ClassVar[set[str]] = set()

    def do_HEAD(self) -> None:
        if self.path.startswith("/api/models/"):
            self.list_files(self.path.split("/")[-1].split("?")[0])
            return
        _, kind, _, _, file = self.path.strip("/").split("/")
        if kind == "drops" and kind in self.answered:  # after its first answer
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.answered.add(kind)
        if kind == "far" and file != "config.json":  # a Hub that takes its time with each of many files
            time.sleep(0.2 * SECONDS)
        hangs = {"hangs": True, "hangs-later": self.command == "GET", "hangs-on-tokenizer": file == "tokenizer.json"}
        if hangs.get(kind):
            time.sleep(5)
        if kind == "drips":
            for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"." * 50:
                self.wfile.write(bytes([letter]))
                time.sleep(0.1)
        status, error = [*kind.split("-"), ""][:2]
        if kind == "adapter" and file == "config.json":
            status, error = "404", "EntryNotFound"
        if slow := kind == "slow" and file == "tokenizer.json":
            status = "200"
        body = b"" if status.isdigit() and not slow else ADAPTER if file == "adapter_config.json" else CONFIG
        body += b" " * (slow and 500_000)
        self.send_response(int(status) if status.isdigit() else 200)
        for name, value in (
            ("ETag", '"slow"' if slow else '"abc"'),
            ("X-Repo-Commit", "0" * 40),
            ("Content-Length", str(len(body))),
            ("X-Error-Code", error),
        ):
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(body), 150_000) if self.command == "GET" else ():
            time.sleep(slow and 0.8 * SECONDS)
            self.wfile.write(body[start : start + 150_000])

    do_GET = do_HEAD

    def list_files(self, kind: str) -> None:
        if kind == "hangs-on-list":
            time.sleep(5)
        names: tuple[str, ...] = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")
        names += tuple(f"{number}.txt" for number in range(5)) if kind == "far" else ()
        files = [{"rfilename": file} for file in names if not (kind == "no-tokenizer" and file == "tokenizer.json")]
        body = json.dumps({"id": f"owner/{kind}", "sha": "0" * 40, "siblings": files}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


CODE = """
import json, sys, time
from vision_zero.models import files, hub
hub.HUB_SECONDS = {seconds}
files._check_family = lambda *_: None  # which needs transformers
for name in sys.argv[1:]:
    began, said = time.monotonic(), "right"
    try:
        (files.check_files if {whole} else files.check_config)(name)
    except ValueError as error:
        said = str(error)
    print(json.dumps([said, time.monotonic() - began]))
"""


def ask(endpoint: str, cache: Path, *names: str, whole: bool = False, **more: str) -> tuple[list[str], str]:
    """What each name of a model leads to, its config.json or the `whole` of its files, and stderr. None takes long."""
    environment = {
        **ENVIRONMENT,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "*",
        **more,
    }
    words = [sys.executable, "-c", CODE.format(seconds=SECONDS, whole=whole), *names]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(seconds < 2 * SECONDS + 1 for _, seconds in answers), answers
    return [said for said, _ in answers], done.stderr


def test_each_answer_has_its_own_line(endpoint: str, tmp_path: Path) -> None:
    said = {
        "whole": "right",
        "404-RepoNotFound": f"nor such a model on the Hub ({endpoint}): check the name; one that is private",
        "404": "nor such a model on the Hub",
        "401": "nor such a model on the Hub",
        "401-RepoNotFound": "needs a login: `hf auth login`, or HF_TOKEN",
        "401-GatedRepo": f"is gated: accept its terms at {endpoint}/owner/401-GatedRepo, then log in: `hf auth login`",
        "403-GatedRepo": "is gated: accept its terms",
        "403": "is gated: accept its terms",
        "adapter": "is an adapter (LoRA) of Qwen/Qwen2.5-VL-3B-Instruct, no whole model: merge",
        "404-EntryNotFound": "is no model: it has no config.json",
        "404-EntryNotFound-GGUF": "give the model it was made from, as owner/404-EntryNotFound",
        "500": "cannot be reached: ",
        "503": "HF_ENDPOINT with a mirror",
        "429": "cannot be reached: ",
        "hangs": "cannot be reached: ",
        "hangs-later": "no whole answer within 1 s; without a network give a folder (`hf download owner/hangs-later",
        "drops": "cannot be reached: ",
        "drips": "cannot be reached: no whole answer within 1 s",
    }  # fmt: skip
    answers, _ = ask(endpoint, tmp_path, *(f"owner/{kind}" for kind in said))
    for (kind, expected), answer in zip(said.items(), answers, strict=True):
        assert expected in answer, (kind, answer)
        assert "\n" not in answer
        assert answer == "right" or answer.startswith(f"model owner/{kind}")


def test_a_hub_that_cannot_be_reached_leaves_the_cache(endpoint: str, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    (said,), _ = ask(nobody, tmp_path, "owner/whole")
    assert f"{nobody} cannot be reached: " in said
    assert "`hf download owner/whole --local-dir FOLDER`" in said
    assert ask(endpoint, tmp_path, "owner/whole") == (["right"], "")
    (first, other), told = ask(nobody, tmp_path, "owner/whole", "owner/other")
    assert first == "right"
    assert f"{nobody} cannot be reached: " in told
    assert "owner/whole is taken from the Hub's cache" in told
    assert "nor such a model in the Hub's cache" in other  # it is not asked again
    answers, told = ask(nobody, tmp_path, "owner/whole", "owner/other", HF_HUB_OFFLINE="1")
    assert (answers[0], told) == ("right", "")
    assert "nor such a model in the Hub's cache, and HF_HUB_OFFLINE is set: unset it" in answers[1]


def test_files_after_the_first_are_asked_for_within_a_time_too(endpoint: str, tmp_path: Path) -> None:
    said = {
        "whole": "right",
        "no-tokenizer": "has no tokenizer (tokenizer.json or",
        "hangs-on-list": f"{endpoint} cannot be reached: ",
        "hangs-on-tokenizer": f"{endpoint} cannot be reached: ",
    }
    answers, told = ask(endpoint, tmp_path, *(f"owner/{kind}" for kind in said), whole=True)
    for (kind, expected), answer in zip(said.items(), answers, strict=True):
        assert expected in answer, (kind, answer)
        assert "\n" not in answer
    assert told == "", "nothing of retries"
    assert not list(tmp_path.rglob("*.safetensors")), "weights are not fetched by a check"
    assert ask("http://127.0.0.1:1", tmp_path, "owner/whole", whole=True)[0] == ["right"]  # from the cache


def test_a_model_that_was_fetched_whole_is_taken_from_the_cache_when_the_hub_hangs(
    endpoint: str, tmp_path: Path
) -> None:
    ask(endpoint, tmp_path, "owner/hangs-on-list")
    (snapshot,) = tmp_path.rglob("snapshots/*")
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        (snapshot / name).write_text("{}")
    (said,), told = ask(endpoint, tmp_path, "owner/hangs-on-list", whole=True)
    assert said == "right"
    assert "owner/hangs-on-list is taken from the Hub's cache" in told


@pytest.mark.parametrize("kind", ["slow", "far"])
def test_what_comes_slowly_is_waited_for(kind: str, endpoint: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", CODE.format(seconds=SECONDS, whole=True), f"owner/{kind}"]
    more = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    done = subprocess.run(words, env={**ENVIRONMENT, **more}, capture_output=True, text=True, check=True, timeout=60)
    said, seconds = json.loads(done.stdout)
    assert (said, done.stderr) == ("right", "")
    assert seconds > 1.5 * SECONDS, "more than the time for one answer"
