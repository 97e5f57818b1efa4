"""Serve a model behind an OpenAI-style API for evaluation tools that only speak to one.

    python -m vision_zero.evaluate.benchmarks.server.server MODEL [--port 8000]

Answers POST /v1/chat/completions greedily; requests that wait are answered as one batch. GET /health counts what was
answered. It has no password and listens on this machine alone unless told otherwise. It ends with the process that
started it.
"""

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vision_zero.config.game import add_options, beside
from vision_zero.evaluate.benchmarks.processes import READY
from vision_zero.evaluate.benchmarks.server.model import NO_ANSWER, ChatAnswer, ChatModel, ChatRequest, read_request
from vision_zero.run_folder import append_json_line, check_appendable

LARGEST_BODY = 256 * 1024 * 1024
SECONDS_TO_SEND = 120
"""After so many without a byte of a request that has begun, or of a next one, its connection is closed."""


class Batcher:
    """Batches of waiting requests for one model in one thread, with counts."""

    def __init__(self, model: ChatModel, max_batch: int) -> None:
        self.model, self.max_batch = model, max_batch
        self.counts = {"answered": 0, "failed": 0, "truncated": 0, "empty": 0, "batches": 0}
        self._queue: queue.Queue[tuple[ChatRequest, Future[ChatAnswer]]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def answer(self, request: ChatRequest) -> ChatAnswer:
        """The answer to a request, once its batch is done. Raises RuntimeError with the model's error."""
        future: Future[ChatAnswer] = Future()
        self._queue.put((request, future))
        return future.result()

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < self.max_batch and not self._queue.empty():
                batch.append(self._queue.get())
            for has_images in (True, False):
                if alike := [one for one in batch if bool(one[0].images) is has_images]:
                    self._answer(*zip(*alike, strict=True))

    def _answer(self, requests: Sequence[ChatRequest], futures: Sequence[Future[ChatAnswer]]) -> None:
        self.counts["batches"] += 1
        try:
            answers = self.model.answer(requests)
        except Exception as error:  # the server goes on; who asked is told
            message = f"{type(error).__name__}: {error}"
            print(f"failed: {message}", file=sys.stderr, flush=True)
            self.counts["failed"] += len(requests)
            for future in futures:
                future.set_exception(RuntimeError(message))
            return
        self.counts["answered"] += len(answers)
        self.counts["truncated"] += sum(answer.truncated for answer in answers)
        self.counts["empty"] += sum(answer.text == NO_ANSWER for answer in answers)
        for future, answer in zip(futures, answers, strict=True):
            future.set_result(answer)


class ChatServer(ThreadingHTTPServer):
    """HTTP server of a batcher's model. Raises OSError for a port that is taken; port 0 is any free one."""

    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], batcher: Batcher, name: str, max_tokens: int, keep: Path | None = None
    ) -> None:
        super().__init__(address, _Handler)
        self.batcher, self.name, self.max_tokens, self.keep = batcher, name, max_tokens, keep
        self.writing = threading.Lock()
        self.url = f"http://{address[0]}:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"
    timeout = SECONDS_TO_SEND

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {"status": "ok", "model": self.server.name, **self.server.batcher.counts})
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": self.server.name, "object": "model"}]})
        else:
            self._send(404, _error(f"no such path: {self.path}"))

    def do_POST(self) -> None:
        said = self.headers.get("Content-Length") or ""
        if not (said.isascii() and said.isdecimal()) or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # where the next request would begin is not known
            return self._send(411, _error(f"Content-Length must say how many bytes the request has, not {said[:50]!r}"))
        if len(said) > 12 or int(said) > LARGEST_BODY:
            self.close_connection = True
            return self._send(413, _error(f"the request has {said[:50]} bytes; at most {LARGEST_BODY} are read"))
        body = self.rfile.read(int(said))
        if self.path != "/v1/chat/completions":
            return self._send(404, _error(f"no such path: {self.path}"))
        try:
            content = json.loads(body)
            request = read_request(content, self.server.max_tokens)
        except (ValueError, RecursionError) as error:
            return self._send(400, _error(str(error)))
        try:
            answer = self.server.batcher.answer(request)
        except RuntimeError as error:
            return self._send(500, _error(str(error)))
        if self.server.keep is not None:
            with self.server.writing:
                append_json_line(self.server.keep, {"request": content, "answer": answer.text})
        return self._send(200, self._completion(answer))

    def _completion(self, answer: ChatAnswer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text}
        reason = "length" if answer.truncated else "stop"
        n_prompt, n_new = answer.prompt_tokens, answer.new_tokens
        return {
            "id": f"chatcmpl-{self.server.batcher.counts['answered']}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.server.name,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new},
        }

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """No line per request: failures are printed where they occur."""


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def end_with(parent: int) -> None:
    """End this process once the process `parent` that started it is gone, however that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, beside(__file__))
    args = parser.parse_args(arguments)
    end_with(os.getppid())
    try:
        if args.keep_requests:
            check_appendable(args.keep_requests, "--keep_requests", '{"request": ')
        options = {name: getattr(args, name) for name in ("dtype", "use_cpu", "post_process", "system_prompt")}
        model = ChatModel.load(args.model, (args.min_pixels, args.max_pixels), **options)
        print(model.check(args.model), file=sys.stderr, flush=True)
        batcher = Batcher(model, args.max_batch)
        server = ChatServer(
            (args.host, args.port), batcher, args.name or args.model, args.max_tokens, args.keep_requests
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{READY}{server.url}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
