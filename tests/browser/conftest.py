"""The built book on a local port, one browser for the session, one visit for each page."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")

from browser.visiting import Visit, visit_page  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, sync_playwright  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CHROMIUMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    # Nothing but this machine has an address: a request to elsewhere fails at once.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
DESKTOP = {"width": 1280, "height": 900}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a page asks for twenty files at once


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book: $COMPANION_BOOK, else _build/html, built if it is not there."""
    folder = Path(os.environ.get("COMPANION_BOOK", ROOT / "_build" / "html"))
    if not (folder / "book" / "index.html").exists():
        if "COMPANION_BOOK" in os.environ:
            pytest.fail(f"COMPANION_BOOK={folder}: there is no book/index.html in it")
        builder = Path(sys.executable).with_name("jupyter-book")
        subprocess.run([str(builder), "build", str(ROOT), "--quiet"], check=True, timeout=280)
    return folder


@pytest.fixture(scope="session")
def book(html: Path) -> Iterator[str]:
    """Address of the book, served from a thread on a free port of this machine."""
    handler = functools.partial(QuietHandler, directory=str(html))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium: the system's, else the one that playwright brought."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with sync_playwright() as playwright:
        path = found or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip(f"no Chromium: none of {', '.join(CHROMIUMS)} is on the PATH")
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def window(browser: Browser) -> Iterator[BrowserContext]:
    """One window for everybody who changes nothing that the next page would remember."""
    context = browser.new_context(viewport=DESKTOP, color_scheme="light")
    yield context
    context.close()


@pytest.fixture(scope="session")
def visit(window: BrowserContext, book: str) -> Callable[[str], Visit]:
    """page -> what was seen there; each page is opened once a session."""
    return functools.cache(lambda page: visit_page(window, f"{book}/{page}.html"))
