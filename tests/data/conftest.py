"""The toy data set and its server, for the tests of the search path and of downloads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_dataset import CONTENT, Server

from companion.data.catalogue import DATASETS, DataSet
from companion.data.files import File


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local web server."""
    server = Server(monkeypatch)
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """A data set of two files, and a search path below `tmp_path`."""
    dataset = DataSet(
        name="toy",
        title="a toy",
        files={n: File(len(c), hashlib.sha256(c).hexdigest()) for n, c in CONTENT.items()},
        urls=("http://127.0.0.1:9/",),  # the discard port: nobody answers
        system=(str(tmp_path / "system" / "toy"),),
        package="`apt install toy`",
        licence="MIT",
        citation="nobody",
    )
    monkeypatch.setitem(DATASETS, "toy", dataset)
    monkeypatch.setenv("COMPANION_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return dataset
