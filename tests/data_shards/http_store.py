"""An HTTP server of a folder, with ranges, that can be told to fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import unquote

FAULTS = ("500", "drop", "truncate", "delay", "short")


class Store(ThreadingHTTPServer):
    """Requests answered so far, and what goes wrong with them."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.every = 0
        """One request in so many fails; 0: none."""
        self.delay_s = 1.0
        self.ranges = True
        self.status = 0
        """Status of every answer, which is a page of HTML and leads nowhere; 0: the file."""
        self.numbers = count()
        self.sent: list[tuple[str, int]] = []
        """Name and bytes of each whole answer."""
        self.failed = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def bytes_of(self, ending: str) -> int:
        return sum(size for name, size in self.sent if name.endswith(ending))

    def handle_error(self, *_) -> None:
        """Clients hang up on purpose here."""


class _Handler(BaseHTTPRequestHandler):
    server: Store
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.status:
            self._answer_with_page(self.server.status)
            return
        path = self.server.folder / unquote(self.path).lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data, status = path.read_bytes(), 200
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and self.server.ranges:
            first, _, last = wanted[6:].partition("-")
            if int(first) >= len(data):
                self.send_error(416)
                return
            data, status = data[int(first) : int(last) + 1 if last else None], 206
        number = next(self.server.numbers)
        fault = ""
        if self.server.every and number % self.server.every == self.server.every - 1:
            fault = FAULTS[number // self.server.every % len(FAULTS)]
        self.server.failed += bool(fault)
        self._answer(path.name, data, status, fault)

    def _answer_with_page(self, status: int) -> None:
        page = b"<html>log in first</html>" * 20
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def _answer(self, name: str, data: bytes, status: int, fault: str) -> None:
        if fault == "500":
            self.send_error(500)
            return
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        if fault == "delay":
            time.sleep(self.server.delay_s)
        if fault == "short" and status == 206:
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "truncate":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(data)
        if fault != "short":
            self.server.sent.append((name, len(data)))


@contextmanager
def serve(folder: Path) -> Iterator[Store]:
    """The server of a folder while the block runs."""
    store = Store(folder)
    thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
