"""The vLLM servers of a run: requests are spread over them, and what one that dies has open is sent to the others.

A turn's tokens depend on its seed and its prompt alone, so it does not matter which server answers it. A server that
is lost stays out until the run is started again, even if it returns: its weights would be the initial ones.
"""

import asyncio
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from vision_zero.rollout.vllm.client import ServerConnection, ServerLostError, ServerOptions, VLLMServerError, new_loop

MUCH_BUSIER = 8  # open requests, beside twice those of the idlest server: a game leaves a server with more


class Servers:
    """As one process sees them: `alive` are left, `lost` has reasons by url. Losses are told if `shown`."""

    def __init__(self, options: Sequence[ServerOptions], *, shown: bool = True) -> None:
        self._loop = new_loop()
        self.alive = [ServerConnection(one, self._loop) for one in options]
        self.lost: dict[str, str] = {}
        self.shown = shown
        self._homes: dict[int, ServerConnection] = {}
        self._arrived: queue.SimpleQueue[Future[tuple[str, ServerConnection, Any]]] = queue.SimpleQueue()

    def lose(self, server: ServerConnection, reason: str) -> None:
        """Go on without `server`. Raises VLLMServerError, with the reason, if it is the last."""
        if server not in self.alive:
            return
        if len(self.alive) == 1:
            raise VLLMServerError(reason + (f"; none is left of {len(self.lost) + 1} servers" if self.lost else ""))
        self.alive.remove(server)
        self.lost[server.options.url] = reason
        if self.shown:
            goes_on = f"the run goes on with {len(self.alive)} of {len(self.alive) + len(self.lost)} servers"
            tqdm.write(f"{reason}; {goes_on}, which get its open requests", file=sys.stderr)

    def each(self, call: Callable[[ServerConnection], object]) -> None:
        """`call` with every server, all at once. Those that are lost in it are left out from then on."""
        with ThreadPoolExecutor(len(self.alive)) as threads:
            calls = [(server, threads.submit(call, server)) for server in self.alive]
        for server, ended in calls:
            try:
                ended.result()
            except ServerLostError as error:
                self.lose(server, str(error))

    def send(self, name: str, game: int, body: dict[str, Any], image: dict[str, str]) -> None:
        """Send a request for a turn of `game`, which sees `image`, in the background."""
        sent = asyncio.run_coroutine_threadsafe(self._answer(name, game, body, image), self._loop)
        sent.add_done_callback(self._arrived.put)

    async def _answer(self, name: str, game: int, body: dict[str, Any], image: dict[str, str]) -> Any:
        while True:
            server, several = self._server_of(game), len(self.alive) > 1 or bool(self.lost)
            try:
                return name, server, await server.answer(body, image, check=several)
            except ServerLostError as error:
                self.lose(server, str(error))

    def _server_of(self, game: int) -> ServerConnection:
        """The game's server, which has its image and prefixes, unless it is much busier than the idlest."""
        idlest = min(self.alive, key=lambda server: server.open)
        home = self._homes.get(game, idlest)
        if home not in self.alive or home.open > 2 * idlest.open + MUCH_BUSIER:
            home = idlest
        self._homes[game] = home
        return home

    def receive(self) -> list[tuple[str, ServerConnection, Any]]:
        """Wait for at least one answer; name, server and JSON, of any shape, of all that have arrived, in order.

        Raises VLLMServerError for a request that failed, other than by the loss of one server among several.
        """
        arrived = [self._arrived.get()]
        while not self._arrived.empty():
            arrived.append(self._arrived.get())
        return [reply.result() for reply in arrived]

    def cancel(self) -> None:
        """Cancel open requests, drop received answers, and forget what was sent where."""
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._arrived, self._homes = queue.SimpleQueue(), {}
        for server in self.alive:
            server.images.clear()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
