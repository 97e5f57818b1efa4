"""HTTP client of a vLLM server: blocking calls, and many concurrent requests.

Nothing is retried. A restarted server has its initial weights, and a run that went on with those would learn from
another policy's games; so the loss of the server ends the run, which can be resumed.
"""

import asyncio
import queue
import reprlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from tqdm import tqdm

HEALTH = "/health"
CALL_TIMEOUT = 300.0
SECONDS_BETWEEN_TRIES, SECONDS_BETWEEN_LINES = 1.0, 5.0
REFUSED = 400
SHORT = reprlib.Repr()
SHORT.maxstring = 200


class VLLMServerError(RuntimeError):
    """The vLLM server is unreachable, wrongly configured or lost, or replies something else than vLLM's."""


Reply = Future[tuple[str, Any]]
"""Name of a request and the JSON of its response."""


@contextmanager
def reading(url: object, reply: Any) -> Iterator[None]:
    """Context that reads `reply`. Raises VLLMServerError, with `url`, for one of another shape than is read."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}, in {SHORT.repr(reply)}"
        raise VLLMServerError(f"{url} replies something else than a vLLM server ({said})") from error


def json_of(response: httpx.Response) -> Any:
    """The JSON of a reply. Raises VLLMServerError for a failure, and where there is none."""
    url = response.request.url
    if not response.is_success:
        raise VLLMServerError(f"{url} says {response.status_code}: {response.text[:500]}")
    with reading(url, response.text):
        return response.json()


@dataclass(frozen=True)
class ServerOptions:
    """Address of a server, and how long to wait for it.

    `url` is http://host:port. `start_timeout`: seconds until it must be up. `silence_timeout`: seconds without any
    completion, while some are pending, after which it counts as lost. `requests_at_once` per process. `group_port` is
    the port over which weights are sent.
    """

    url: str
    start_timeout: float = 240.0
    silence_timeout: float = 300.0
    requests_at_once: int = 256
    group_port: int = 51216


class ServerConnection:
    """Client of one process. A background thread sends the requests."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._arrived: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._pending: set[Reply] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm-server", daemon=True).start()
        # A connection per request: the server may close a kept one just when it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=options.url, timeout=None, limits=limits, trust_env=False)
        self._semaphore = asyncio.Semaphore(options.requests_at_once)

    def call(self, method: str, path: str, *, timeout: float = CALL_TIMEOUT, **content: Any) -> httpx.Response:
        """Response of any status. Raises VLLMServerError if it is not there, to its last byte, in `timeout` seconds."""
        waiting = asyncio.wait_for(self._client.request(method, path, **content), timeout)
        try:
            return asyncio.run_coroutine_threadsafe(waiting, self._loop).result()
        except (httpx.HTTPError, TimeoutError) as error:
            reason = f"no whole reply in {timeout:g} s" if isinstance(error, TimeoutError) else _reason(error)
            raise VLLMServerError(f"the vLLM server does not answer at {self.options.url + path}: {reason}") from error

    def is_up(self) -> bool:
        try:
            return self.call("GET", HEALTH, timeout=10.0).is_success
        except VLLMServerError:
            return False

    def wait_until_up(self) -> None:
        """Wait, with a message every few seconds. Raises VLLMServerError after `start_timeout` seconds."""
        started = said = time.monotonic()
        while not self.is_up():
            now = time.monotonic()
            if now - started >= self.options.start_timeout:
                raise VLLMServerError(
                    f"there is no vLLM server at {self.options.url} after {self.options.start_timeout:.0f} s "
                    "(vllm_server_timeout). Start it with run_scripts/vllm_server.sh and look at what it prints; "
                    "vllm_server_host and vllm_server_port, or vllm_server_base_url, say where it is looked for"
                )
            if now - said >= SECONDS_BETWEEN_LINES or said == started:
                said = now
                tqdm.write(
                    f"waiting for the vLLM server at {self.options.url}: {now - started:.0f} s of "
                    f"{self.options.start_timeout:.0f}",
                    file=sys.stderr,
                )
            time.sleep(SECONDS_BETWEEN_TRIES)

    def send(self, name: str, path: str, bodies: Sequence[dict[str, Any]]) -> None:
        """Send a request in the background; `receive` returns its answer.

        `bodies` are equivalent, the cheapest first: the next is sent if the server refuses one.
        """
        reply = asyncio.run_coroutine_threadsafe(self._request(name, path, bodies), self._loop)
        self._pending.add(reply)
        reply.add_done_callback(self._arrived.put)

    async def _request(self, name: str, path: str, bodies: Sequence[dict[str, Any]]) -> tuple[str, Any]:
        try:
            async with self._semaphore:
                for body in bodies:
                    response = await self._client.post(path, json=body)
                    if response.status_code != REFUSED:
                        break
            return name, json_of(response)
        except VLLMServerError:
            raise
        except Exception as error:
            said = f"lost the vLLM server at {self.options.url} while it played: {_reason(error)}"
            raise VLLMServerError(said) from error

    def receive(self) -> list[tuple[str, Any]]:
        """Wait for at least one answer; names and JSON, of any shape, of all that have arrived, in order of arrival.

        Raises VLLMServerError for a request that failed, and after `silence_timeout` seconds without any answer.
        """
        try:
            arrived = [self._arrived.get(timeout=self.options.silence_timeout)]
        except queue.Empty:
            raise VLLMServerError(
                f"the vLLM server at {self.options.url} has sent no completion for "
                f"{self.options.silence_timeout:.0f} s (vllm_request_timeout), with {len(self._pending)} waited for"
            ) from None
        while not self._arrived.empty():
            arrived.append(self._arrived.get())
        self._pending.difference_update(arrived)
        return [reply.result() for reply in arrived]

    def cancel(self) -> None:
        """Cancel pending requests and drop received answers."""
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._arrived, self._pending = queue.SimpleQueue(), set()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
