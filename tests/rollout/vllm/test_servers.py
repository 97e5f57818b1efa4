"""Requests that are spread over several servers, and what becomes of those of a server that is lost.

The servers here speak HTTP and nothing of vLLM: each answers with the body that it got. `test_several_servers.py` has
real ones.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vision_zero.rollout.vllm.client import GENERATE, ServerConnection, ServerLostError, ServerOptions, VLLMServerError
from vision_zero.rollout.vllm.servers import MUCH_BUSIER, Servers


class EchoServer(ThreadingHTTPServer):
    """Replies to a request with its body, once `open` is set; or does what `mode` says instead.

    Its workers say that they were `started`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EchoHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.open = threading.Event()
        self.open.set()
        self.mode = "replies"
        self.started = "once"
        self.got: list[dict[str, Any]] = []

    def games(self) -> Counter[int]:
        return Counter(body["game"] for body in self.got)


class _EchoHandler(BaseHTTPRequestHandler):
    server: EchoServer

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == GENERATE:
            self.server.got.append(json.loads(content))
            self.server.open.wait(20)
        if self.path == "/collective_rpc":
            content = json.dumps({"results": [{"temperature": 1.0, "started": self.server.started}]}).encode()
        if self.server.mode == "closes":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if self.server.mode == "aborts":  # as vLLM at SIGTERM
            content = json.dumps({"choices": [{"finish_reason": "abort"}]}).encode()
        modes = {"fails": 500, "refuses": 400} if self.path == GENERATE else {}
        self.send_response(modes.get(self.server.mode, 200))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def echo_servers(n: int) -> Iterator[list[EchoServer]]:
    with ExitStack() as stack:
        servers = [stack.enter_context(EchoServer()) for _ in range(n)]
        for server in servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield servers
        for server in servers:
            server.open.set()
            server.shutdown()


def servers_of(echoes: Sequence[EchoServer], *, silence_timeout: float = 20, shown: bool = True) -> Servers:
    servers = Servers([ServerOptions(echo.url, silence_timeout=silence_timeout) for echo in echoes], shown=shown)
    for server in servers.alive:
        server.workers = server.sample_at(1.0)
    return servers


def send(servers: Servers, *games: int) -> None:
    for turn, game in enumerate(games):
        image = {"type": "image_url", "uuid": f"of {game}", "url": f"data:{game}"}
        servers.send(f"{game}.{turn}", game, {"game": game, "seed": 7 * game}, image)


def received(servers: Servers, n: int) -> list[tuple[str, str]]:
    """Names of `n` answered requests, and who answered."""
    answers: list[tuple[str, str]] = []
    while len(answers) < n:
        for name, server, content in servers.receive():
            assert (content["game"], content["seed"]) == (game := int(name.split(".")[0]), 7 * game)
            answers.append((name, server.options.url))
    assert len({name for name, _ in answers}) == n, "each is answered once"
    return answers


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_games_are_spread_and_stay_with_their_server() -> None:
    with echo_servers(3) as echoes:
        servers = servers_of(echoes)
        for echo in echoes:
            echo.open.clear()
        send(servers, *range(12))
        wait_until(lambda: all(len(echo.got) == 4 for echo in echoes))
        for echo in echoes:
            echo.open.set()
        received(servers, 12)
        homes = [set(echo.games()) for echo in echoes]
        send(servers, *range(12), *range(12))  # the next turns, and votes at once
        received(servers, 24)
        assert [set(echo.games()) for echo in echoes] == homes
        servers.cancel()
    assert all(server.open == 0 for server in servers.alive)


def test_a_game_leaves_a_server_that_is_much_busier() -> None:
    with echo_servers(2) as echoes:
        servers = servers_of(echoes)
        send(servers, 0)  # to the first
        received(servers, 1)
        echoes[0].open.clear()
        send(servers, *[0] * (MUCH_BUSIER + 1))  # as votes of one game are
        wait_until(lambda: len(echoes[0].got) == MUCH_BUSIER + 2)
        send(servers, 0, 0)
        assert [url for _, url in received(servers, 2)] == [echoes[1].url] * 2
        echoes[0].open.set()
        received(servers, MUCH_BUSIER + 1)


@pytest.mark.parametrize("mode", ["closes", "fails", "aborts", "is silent"])
def test_what_a_lost_server_had_open_is_answered_by_the_others(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    with echo_servers(2) as echoes:
        servers = servers_of(echoes, silence_timeout=1.5)
        echoes[0].open.clear()
        send(servers, *range(6))
        wait_until(lambda: len(echoes[0].got) == 3)
        echoes[0].mode = mode
        if mode != "is silent":
            echoes[0].open.set()
        started = time.monotonic()
        assert {url for _, url in received(servers, 6)} == {echoes[1].url}
        assert time.monotonic() - started < 5
        assert echoes[1].games() == dict.fromkeys(range(6), 1)
        assert all("url" in body["content_parts"][0] for body in echoes[1].got), "with the image, which it has not had"
        assert list(servers.lost) == [echoes[0].url]

        # It returns, and is not asked again.
        echoes[0].mode = "replies"
        echoes[0].open.set()
        asked = len(echoes[0].got)
        send(servers, *range(6))
        assert {url for _, url in received(servers, 6)} == {echoes[1].url}
        assert len(echoes[0].got) == asked
    (line,) = capsys.readouterr().err.splitlines()
    reasons = {
        "closes": "lost the vLLM server at",
        "fails": "says 500",
        "aborts": "shuts down: a completion ended with 'abort'",
        "is silent": "no completion for 2 s",
    }
    assert echoes[0].url in line
    assert reasons[mode] in line
    assert "the run goes on with 1 of 2 servers, which get its open requests" in line


def test_other_processes_do_not_tell_of_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_servers(2) as echoes:
        servers = servers_of(echoes, shown=False)
        echoes[0].mode = "closes"
        send(servers, 0, 1)
        received(servers, 2)
    assert capsys.readouterr().err == ""


def test_when_none_is_left_it_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_servers(2) as echoes:
        servers = servers_of(echoes)
        echoes[0].mode = echoes[1].mode = "closes"
        send(servers, *range(4))
        with pytest.raises(VLLMServerError, match=r"lost the vLLM server at .*; none is left of 2 servers"):
            received(servers, 4)
        servers.cancel()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_refused_request_is_an_error_and_no_loss() -> None:
    with echo_servers(2) as echoes:
        servers = servers_of(echoes)
        echoes[0].mode = "refuses"
        send(servers, 0)
        with pytest.raises(VLLMServerError, match="says 400"):
            received(servers, 1)
        assert len(servers.alive) == 2
        servers.cancel()


@pytest.mark.parametrize("stands_still", [False, True])
def test_a_server_that_was_started_again_gets_no_request(
    stands_still: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it had nothing open, so that nothing failed."""
    with echo_servers(2) as echoes:
        servers = servers_of(echoes, silence_timeout=1.5)
        echoes[0].open.clear()
        send(servers, 0, 1)
        received(servers, 1)
        echoes[0].open.set()
        received(servers, 1)
        if stands_still:
            echoes[0].shutdown()  # connections are made, and not served
        else:
            echoes[0].started = "twice"
        send(servers, 0, 1)
        assert {url for _, url in received(servers, 2)} == {echoes[1].url}
        assert len(echoes[0].got) == 1
        servers.cancel()
    said = "no completion for 2 s" if stands_still else "was started again, with its initial weights; the run goes on"
    assert said in capsys.readouterr().err


def test_a_call_of_all_leaves_out_those_that_are_lost_in_it() -> None:
    with echo_servers(3) as echoes:
        servers = servers_of(echoes)

        def call(server: ServerConnection) -> None:
            if server.options.url != echoes[1].url:
                raise ServerLostError(f"lost {server.options.url}")

        servers.each(call)
        assert [server.options.url for server in servers.alive] == [echoes[1].url]
        servers.each(call)
        with pytest.raises(VLLMServerError, match="lost it; none is left of 3 servers"):
            servers.lose(servers.alive[0], "lost it")
