"""HTTP client of one vLLM server: blocking calls, and requests for turns.

Nothing is tried again with a server that failed. A restarted one has its initial weights, and a run that went on with
those would learn from another policy's games; so it is lost to the run (`servers`).
"""

import asyncio
import reprlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
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


class ServerLostError(VLLMServerError):
    """A server died, so that others can go on: it is unreachable, silent, restarted, or fails by itself (HTTP 5xx)."""


@contextmanager
def reading(url: object, reply: Any) -> Iterator[None]:
    """Context that reads `reply`. Raises VLLMServerError, with `url`, for one of another shape than is read."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}, in {SHORT.repr(reply)}"
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


def background_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="vllm-server", daemon=True).start()
    return loop


class ServerConnection:
    """Client of one process, whose requests are sent by a thread that runs `loop`.

    `open` requests have no reply yet; `heard` is the time of the last reply, or of the first request since there were
    none open. `started` is what the workers say of their start (`TemperatureWorker`).
    """

    def __init__(self, options: ServerOptions, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.options = options
        self.open, self.heard = 0, 0.0
        self.started: list[str] = []
        self.loop = loop or background_loop()
        # A connection per request: the server may close a kept one just when it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=options.url, timeout=None, limits=limits, trust_env=False)
        self._semaphore = asyncio.Semaphore(options.requests_at_once)

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

    async def answer(self, path: str, bodies: Sequence[dict[str, Any]]) -> Any:
        """JSON, of any shape, of the reply to a request. `bodies` are equivalent: the next is sent if one is refused.

        Raises ServerLostError too after `silence_timeout` seconds without the reply to any request.
        """
        reply = asyncio.ensure_future(self._reply(path, bodies))
        try:
            while (left := self.heard + self.options.silence_timeout - time.monotonic()) > 0:
                if (await asyncio.wait({reply}, timeout=left))[0]:
                    self.heard = time.monotonic()
                    return json_of(reply.result())
        except VLLMServerError:
            raise
        except Exception as error:
            said = f"lost the vLLM server at {self.options.url} while it played: {_reason(error)}"
            raise ServerLostError(said) from error
        finally:
            reply.cancel()
        raise ServerLostError(
            f"the vLLM server at {self.options.url} has sent no completion for {self.options.silence_timeout:.0f} s "
            f"(vllm_request_timeout), with {self.open} waited for"
        )

    async def _reply(self, path: str, bodies: Sequence[dict[str, Any]]) -> httpx.Response:
        async with self._semaphore:
            for body in bodies:
                response = await self._client.post(path, json=body)
                if response.status_code != REFUSED:
                    break
        return response


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
