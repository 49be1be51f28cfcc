"""Serve a folder on this machine until Ctrl-C and print the address: `serve.py FOLDER [PORT]`."""

from __future__ import annotations

import functools
import http.server
import sys
from pathlib import Path


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a line for each file that a page loads would bury the address."""


def open_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Listen on the loopback address at `port`, or at any free port if that one is taken."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    if not (folder / "index.html").exists():
        print(f"{folder}: no index.html there; `make html` builds it", file=sys.stderr)
        return 2
    with open_server(folder, int(arguments[1]) if len(arguments) > 1 else 8000) as server:
        print(f"The book is at http://127.0.0.1:{server.server_port}/  (Ctrl-C stops)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
