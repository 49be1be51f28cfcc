"""A toy data set of two files, and a web server on 127.0.0.1 to download it from."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from companion.data.catalogue import DATASETS

CONTENT = {"images": bytes(range(256)) * 300, "labels": b"0123456789" * 7}
PLACES = ("own", "system", "cache")


class Server:
    """A local web server with one answer per path, and a log of what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.answers: dict[str, tuple[int, bytes, int | None]] = {}
        self.log: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.log.append(self.path)
                status, body, length = server.answers.get(self.path, (404, b"no such page", None))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/"
        threading.Thread(target=self.httpd.serve_forever, args=(0.01,), daemon=True).start()

    def become_the_address(self, *names: str) -> None:
        """Make directories of this server the addresses of the toy, in this order."""
        urls = tuple(f"{self.url}{name}/" for name in names)
        self.monkeypatch.setitem(DATASETS, "toy", replace(DATASETS["toy"], urls=urls))

    def offer(self, directory: str, name: str, body: bytes, length: int | None = None) -> None:
        """Answer ``<directory>/<name>.gz`` with `body`, announcing `length` bytes."""
        self.answers[f"/{directory}/{name}.gz"] = (200, body, length)


def directory(tmp_path: Path, place: str) -> Path:
    return tmp_path / place / ("companion/toy" if place == "cache" else "toy")


def put(where: Path, *, packed: bool = True, **contents: bytes) -> Path:
    """Write the toy's files, gzipped if `packed`; `contents` replaces some of them as they are."""
    where.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENT.items():
        path = where / (f"{name}.gz" if packed else name)
        path.write_bytes(contents.get(name) or (gzip.compress(content) if packed else content))
    return where


def left_in_cache(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated gzip": (lambda c: gzip.compress(c)[:-40], "truncated"),
    "gzip without its trailer": (lambda c: gzip.compress(c)[:-4], "truncated"),
    "damaged gzip": (lambda c: gzip.compress(c)[:-6] + b"\0\0" + gzip.compress(c)[-4:], "damaged"),
    "header only": (lambda c: gzip.compress(c)[:10], "truncated: 0 of 76,800 bytes"),
    "other bytes": (lambda c: gzip.compress(c[::-1]), "wrong checksum"),
    "one bit": (lambda c: gzip.compress(c[:-1] + bytes([c[-1] ^ 1])), "wrong checksum"),
    "too long": (lambda c: gzip.compress(c + b"x"), "wrong size: more than 76,800 bytes"),
    "a bomb": (lambda c: gzip.compress(bytes(50_000_000)), "wrong size: more than 76,800"),
    "a web page": (lambda c: b"<html>please log in</html>", "wrong size: 26 of 76,800 bytes"),
    "empty": (lambda c: b"\n", "wrong size: 1 of 76,800 bytes"),
}
each_way_to_break = pytest.mark.parametrize(("spoil", "says"), BROKEN.values(), ids=BROKEN)
