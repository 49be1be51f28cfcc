"""Downloads that go well and downloads that do not; every server is on 127.0.0.1."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from toy_dataset import CONTENT, Server, directory, each_way_to_break, left_in_cache, put

from companion.data import sources
from companion.data.sources import DataNotFoundError

pytestmark = pytest.mark.usefixtures("toy")


def test_a_download_is_checked_cached_and_not_repeated(tmp_path: Path, server: Server) -> None:
    server.become_the_address("good")
    for name, content in CONTENT.items():
        server.offer("good", name, gzip.compress(content))
    seen: list[tuple[str, int, int | None]] = []
    located = sources.fetch("toy", progress=lambda *report: seen.append(report))
    size = len(gzip.compress(CONTENT["images"]))
    assert ("images", size, size) in seen
    assert located == sources.locate("toy")
    assert left_in_cache(tmp_path) == ["images.gz", "labels.gz"]
    assert stat.S_IMODE(located.files["images"].stat().st_mode) == 0o644
    assert sources.read_or_fetch("toy") == CONTENT
    sources.fetch("toy")
    sources.ensure("toy")
    assert len(server.log) == 2


def test_a_set_that_is_not_here_is_fetched_when_it_is_read(tmp_path: Path, server: Server) -> None:
    server.become_the_address("good")
    for name, content in CONTENT.items():
        server.offer("good", name, content)  # an address may also serve plain bytes
    assert sources.read_or_fetch("toy") == CONTENT
    assert left_in_cache(tmp_path) == ["images", "labels"]


@each_way_to_break
def test_a_broken_download_is_refused_and_leaves_nothing(
    tmp_path: Path,
    server: Server,
    spoil: Callable[[bytes], bytes],
    says: str,
) -> None:
    server.become_the_address("bad")
    server.offer("bad", "images", spoil(CONTENT["images"]))
    with pytest.raises(DataNotFoundError, match=says) as caught:
        sources.fetch("toy")
    assert f"{server.url}bad/images.gz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_in_cache(tmp_path) == []


def test_a_connection_that_ends_early_is_a_truncated_download(
    tmp_path: Path, server: Server
) -> None:
    server.become_the_address("bad")
    packed = gzip.compress(CONTENT["images"])
    server.offer("bad", "images", packed[:-20], length=len(packed))
    with pytest.raises(DataNotFoundError, match="truncated|IncompleteRead"):
        sources.fetch("toy")
    assert left_in_cache(tmp_path) == []


def test_an_endless_download_is_cut_off(tmp_path: Path, server: Server) -> None:
    server.become_the_address("bad")
    server.offer("bad", "images", os.urandom(1_000_000))
    with pytest.raises(DataNotFoundError, match="longer than the"):
        sources.fetch("toy")
    assert left_in_cache(tmp_path) == []


def test_a_missing_page_and_a_refused_connection_are_named(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataNotFoundError, match="Connection refused"):
        sources.fetch("toy")
    server.become_the_address("nowhere")
    with pytest.raises(DataNotFoundError, match="images.gz: HTTP 404 Not Found"):
        sources.fetch("toy")
    assert left_in_cache(tmp_path) == []


def test_a_silent_server_is_given_up(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "TIMEOUT", 0.2)
    server.become_the_address("slow")
    answer = threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        answer.wait(10)

    monkeypatch.setattr(server.httpd.RequestHandlerClass, "do_GET", wait)
    with pytest.raises(DataNotFoundError, match="timed out"):
        sources.fetch("toy")
    answer.set()
    assert left_in_cache(tmp_path) == []


def test_the_second_address_serves_when_the_first_is_broken(tmp_path: Path, server: Server) -> None:
    server.become_the_address("bad", "good")
    for name, content in CONTENT.items():
        server.offer("bad", name, gzip.compress(content)[:-9])
        server.offer("good", name, gzip.compress(content))
    assert sources.fetch("toy").kind == "cache"
    assert sources.read_or_fetch("toy") == CONTENT
    assert left_in_cache(tmp_path) == ["images.gz", "labels.gz"]


def test_a_broken_file_in_the_cache_is_replaced_and_an_intact_one_kept(
    tmp_path: Path, server: Server
) -> None:
    put(directory(tmp_path, "cache"), images=b"\x1f\x8b half a fi")
    server.become_the_address("good")
    server.offer("good", "images", gzip.compress(CONTENT["images"]))
    sources.fetch("toy")
    assert server.log == ["/good/images.gz"]
    assert sources.read_or_fetch("toy") == CONTENT


def test_an_interrupted_download_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.become_the_address("good")
    server.offer("good", "images", gzip.compress(CONTENT["images"]))

    def interrupt(*report: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sources.fetch("toy", progress=interrupt)
    assert left_in_cache(tmp_path) == []


def test_two_downloads_at_once_do_not_disturb_each_other(tmp_path: Path, server: Server) -> None:
    server.become_the_address("good")
    for name, content in CONTENT.items():
        server.offer("good", name, gzip.compress(content))
    threads = [threading.Thread(target=sources.fetch, args=("toy",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left_in_cache(tmp_path) == ["images.gz", "labels.gz"]
    assert sources.read_or_fetch("toy") == CONTENT


def check_refused(cache: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        sources.fetch("toy")
    message = str(caught.value)
    assert message.startswith(f"cannot write into the cache directory {cache}/companion/toy (")
    assert "XDG_CACHE_HOME" in message
    assert "\n" not in message


def test_a_cache_below_a_file_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check_refused(tmp_path / "file")


def test_a_read_only_cache_is_one_clear_line_and_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = directory(tmp_path, "cache")
    where.mkdir(parents=True)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    # Permissions do not stop root, under which tests may run; a read-only mount does.
    monkeypatch.setattr(sources.tempfile, "TemporaryFile", refuse)
    check_refused(tmp_path / "cache")
    assert left_in_cache(tmp_path) == []


def test_a_cache_of_another_user_is_one_clear_line(tmp_path: Path) -> None:
    where = directory(tmp_path, "cache")
    where.mkdir(parents=True)
    where.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # "nobody": root may write anywhere
    try:
        check_refused(tmp_path / "cache")
    finally:
        os.seteuid(user)
        where.chmod(0o755)
