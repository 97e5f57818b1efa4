"""The part of the Hub's API that its clients ask for files by, over a local folder: `python hub_server.py DIR REPO`.

It prints its port. The clients under test are the real ones (`huggingface_hub`, `datasets`), with HF_ENDPOINT set.
"""

from __future__ import annotations

import json
import re
import sys
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

ROOT, REPO = Path(sys.argv[1]), sys.argv[2]
COMMIT = "a" * 40
REVISIONS = rf"(?:main|v1|{COMMIT})"


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        file = re.fullmatch(rf"/datasets/{REPO}/resolve/{REVISIONS}/(.+)", path)
        if re.fullmatch(rf"/api/datasets/{REPO}(/revision/{REVISIONS})?", path):
            self.answer({"id": REPO, "sha": COMMIT, "private": False, "tags": [], "siblings": []})
        elif match := re.fullmatch(rf"/api/datasets/{REPO}/tree/{REVISIONS}/?(.*)", path):
            self.answer([entry(found) for found in sorted((ROOT / match[1]).rglob("*"))])
        elif file is not None and (ROOT / file[1]).is_file():
            self.send_file((ROOT / file[1]).read_bytes())
        else:
            self.send(b"{}", 404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self.answer([entry(ROOT / path) for path in asked if (ROOT / path).exists()])

    def answer(self, value: Any) -> None:
        self.send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def send_file(self, data: bytes) -> None:
        headers = {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.send(data, 200, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        self.send(data[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def entry(path: Path) -> dict[str, Any]:
    kind, data = ("file", path.read_bytes()) if path.is_file() else ("directory", b"")
    return {"type": kind, "path": str(path.relative_to(ROOT)), "size": len(data), "oid": sha1(data).hexdigest()}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()
