"""HTTP client of one vLLM server: blocking calls, and requests for turns.

Nothing is tried again with a server that failed. A restarted one has its initial weights, and a run that went on with
those would learn from another policy's games; so it is lost to the run (`servers`).
"""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from tqdm import tqdm

HEALTH, GENERATE = "/health", "/inference/v1/generate"
CALL_TIMEOUT = 300.0
SECONDS_BETWEEN_TRIES, SECONDS_BETWEEN_LINES = 1.0, 5.0
REFUSED = 400


class VLLMServerError(RuntimeError):
    """The vLLM server is unreachable, wrongly configured or lost, or replies something else than vLLM's."""


class ServerLostError(VLLMServerError):
    """A server died, so that others can go on: it is unreachable, silent, restarted, or fails by itself (HTTP 5xx)."""


@contextmanager
def reading(url: object, reply: Any) -> Iterator[None]:
    """Context that reads `reply`. Raises VLLMServerError, with `url`, for one of another shape than is read."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}, in {reply!r:.300}"
        raise VLLMServerError(f"{url} replies something else than a vLLM server ({said})") from error


def json_of(response: httpx.Response) -> Any:
    """The JSON of a reply. Raises VLLMServerError for a failure (the server's own: it is lost), and without JSON."""
    url = response.request.url
    if not response.is_success:
        kind = ServerLostError if response.is_server_error else VLLMServerError
        raise kind(f"{url} says {response.status_code}: {response.text[:500]}")
    with reading(url, response.text):
        return response.json()


@dataclass(frozen=True)
class ServerOptions:
    """Address of a server, and how long to wait for it.

    `url` is http://host:port. `start_timeout`: seconds until it must be up. `silence_timeout`: seconds without any
    completion, while some are pending, after which it counts as lost. `requests_at_once` per process. `group_port` is
    the port over which weights are sent, one per server.
    """

    url: str
    start_timeout: float = 240.0
    silence_timeout: float = 300.0
    requests_at_once: int = 256
    group_port: int = 51216


def new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="vllm-server", daemon=True).start()
    return loop


class ServerConnection:
    """Client of one process, whose requests are sent by the thread of `loop`.

    `open` requests have no reply yet; `heard` is when the last reply came, or the first of them was sent; `images` have
    been sent. `workers`, once checked: their temperature, and what tells them from those of another start.
    """

    def __init__(self, options: ServerOptions, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.options = options
        self.open, self.heard = 0, 0.0
        self.images: set[str] = set()
        self.workers: tuple[float, list[str]] = (1.0, [])
        self.loop = loop or new_loop()
        self._checked: asyncio.Future[None] | None = None
        # A connection per request: the server may close a kept one just when it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=options.url, timeout=None, limits=limits, trust_env=False)
        self._semaphore = asyncio.Semaphore(options.requests_at_once)

    def __str__(self) -> str:
        return f"the vLLM server at {self.options.url}"

    def wrong(self, what: str, option: str) -> VLLMServerError:
        return VLLMServerError(f"{self} {what}: start it with run_scripts/vllm_server.sh, or with {option}")

    def call(self, method: str, path: str, *, timeout: float = CALL_TIMEOUT, **content: Any) -> httpx.Response:
        """Response of any status. Raises VLLMServerError if it is not there, to its last byte, in `timeout` seconds."""
        waiting = asyncio.wait_for(self._client.request(method, path, **content), timeout)
        try:
            return asyncio.run_coroutine_threadsafe(waiting, self.loop).result()
        except (httpx.HTTPError, TimeoutError) as error:
            reason = f"no whole reply in {timeout:g} s" if isinstance(error, TimeoutError) else _reason(error)
            raise ServerLostError(f"the vLLM server does not answer at {self.options.url + path}: {reason}") from error

    def is_up(self) -> bool:
        try:
            return self.call("GET", HEALTH, timeout=10.0).is_success
        except VLLMServerError:
            return False

    def wait_until_up(self) -> None:
        """Wait, with a message every few seconds. Raises VLLMServerError after `start_timeout` seconds."""
        started, next_line, limit = time.monotonic(), 0.0, self.options.start_timeout
        while not self.is_up():
            waited = time.monotonic() - started
            if waited >= limit:
                raise VLLMServerError(
                    f"there is no vLLM server at {self.options.url} after {limit:.0f} s (vllm_server_timeout). Start "
                    "it with run_scripts/vllm_server.sh and look at what it prints; vllm_server_host and "
                    "vllm_server_port, or vllm_server_base_url, say where it is looked for"
                )
            if waited >= next_line:
                next_line = waited + SECONDS_BETWEEN_LINES
                tqdm.write(f"waiting for {self}: {waited:.0f} s of {limit:.0f}", file=sys.stderr)
            time.sleep(SECONDS_BETWEEN_TRIES)

    def sample_at(self, temperature: float) -> tuple[float, list[str]]:
        """Have the workers divide their logits. Returns what `workers` is for."""
        rpc = {"method": "sample_at", "kwargs": {"temperature": str(temperature)}}
        scaled = self.call("POST", "/collective_rpc", json=rpc)
        if not scaled.is_success:
            worker = "--worker-extension-cls vision_zero.rollout.vllm.temperature.TemperatureWorker"
            raise self.wrong("cannot divide its logits by the temperature", worker)
        with reading(scaled.request.url, said := json_of(scaled)):
            if {worker["temperature"] for worker in said["results"]} != {temperature or 1.0}:
                raise ValueError(f"not all workers divide by the temperature {temperature}")
            return temperature, [worker["started"] for worker in said["results"]]

    def check_same(self) -> None:
        """Raises ServerLostError if it does not answer, or its workers are not those that it had."""
        if not self.is_up():
            raise ServerLostError(f"lost {self}: it does not answer")
        try:
            same = self.sample_at(self.workers[0]) == self.workers
        except VLLMServerError as error:
            raise ServerLostError(f"lost {self}: {error}") from error
        if not same:
            raise ServerLostError(f"lost {self}: it was started again, with its initial weights")

    async def answer(self, body: dict[str, Any], image: dict[str, str], *, check: bool) -> Any:
        """JSON, of any shape, of the reply to a request. The `image` is named by its `uuid` if the server has had it.

        `check` has an idle server looked at first (`check_same`), since a restart would have failed open requests only.
        Raises ServerLostError too after `silence_timeout` seconds without the reply to any request.
        """
        if not self.open:
            self.heard = time.monotonic()
            self._checked = asyncio.ensure_future(asyncio.to_thread(self.check_same)) if check else None
        self.open += 1
        try:
            reply, limit = asyncio.ensure_future(self._reply(body, image)), self.options.silence_timeout
            while (left := self.heard + limit - time.monotonic()) > 0:
                if (await asyncio.wait({reply}, timeout=left))[0]:
                    self.heard = time.monotonic()
                    said = json_of(reply.result())
                    with suppress(LookupError, TypeError):  # a reply of any shape
                        if said["choices"][0]["finish_reason"] == "abort":
                            raise ServerLostError(f"{self} shuts down: a completion ended with 'abort'")
                    self.images.add(image["uuid"])
                    return said
            reply.cancel()
            waited = f"no completion for {limit:.0f} s (vllm_request_timeout), with {self.open} waited for"
            raise ServerLostError(f"{self} has sent {waited}")
        except VLLMServerError:
            raise
        except Exception as error:
            raise ServerLostError(f"lost {self} while it played: {_reason(error)}") from error
        finally:
            self.open -= 1

    async def _reply(self, body: dict[str, Any], image: dict[str, str]) -> httpx.Response:
        if self._checked:
            await asyncio.shield(self._checked)
        async with self._semaphore:
            named = {field: image[field] for field in ("type", "uuid")}
            for part in [named, image] if image["uuid"] in self.images else [image]:
                response = await self._client.post(GENERATE, json={**body, "content_parts": [part]})
                if response.status_code != REFUSED:
                    break
        return response


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
