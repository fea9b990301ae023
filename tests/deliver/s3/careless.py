"""An S3 store that checks nothing and refuses nothing, as some do: it stores what comes and says 200."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Careless(ThreadingHTTPServer):
    """``objects`` by path; ``spoil`` is called with what is stored and gives what is kept; ``refusals`` are statuses and bodies by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.spoil = bytes
        self.refusals: dict[str, tuple[int, bytes]] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Careless

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self) -> tuple[str, dict[str, list[str]], bytes]:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return unquote(parts.path), parse_qs(parts.query, keep_blank_values=True), body

    def do_PUT(self) -> None:
        path, query, body = self._asked()
        if path in self.server.refusals:
            self._answer(*self.server.refusals[path])
            return
        if "uploadId" in query:
            self.server.parts[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            self.server.objects[path] = self.server.spoil(body)
        self._answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def do_POST(self) -> None:
        path, query, _ = self._asked()
        if "uploads" in query:
            upload = f"u{len(self.server.parts)}"
            self.server.parts[upload] = {}
            self._answer(200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode())
        else:
            parts = self.server.parts.pop(query["uploadId"][0])
            self.server.objects[path] = self.server.spoil(b"".join(parts[number] for number in sorted(parts)))
            self._answer(200, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def do_HEAD(self) -> None:
        path, _, _ = self._asked()
        if path.count("/") == 1:
            self._answer(200)
        elif path in self.server.objects:
            self._answer(200, Content_Length=str(len(self.server.objects[path])))
        else:
            self._answer(404)

    def do_GET(self) -> None:
        path, _, _ = self._asked()
        found = self.server.objects.get(path)
        self._answer(404) if found is None else self._answer(200, found)


@contextlib.contextmanager
def careless() -> Iterator[Careless]:
    """One that runs."""
    with Careless() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
