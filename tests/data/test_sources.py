"""The search path and the checksums, with a toy data set in many states of disrepair."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_dataset import CONTENT, PLACES, directory, each_way_to_break, put

from companion.data import sources
from companion.data.sources import DataNotFoundError

pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_files_are_found_plain_or_gzipped_in_every_place(
    tmp_path: Path, place: str, packed: bool
) -> None:
    where = put(directory(tmp_path, place), packed=packed)
    located = sources.locate("toy")
    assert located.place == where
    assert located.kind == {"own": "COMPANION_DATA"}.get(place, place)
    assert located.problems == ()
    assert {path.parent for path in located.files.values()} == {where}
    assert sources.read_or_fetch("toy") == CONTENT


def test_places_are_searched_in_order(tmp_path: Path) -> None:
    for place in reversed(PLACES):
        where = put(directory(tmp_path, place))
        assert sources.locate("toy").place == where
    assert [kind for kind, _ in sources.places("toy")] == ["COMPANION_DATA", "system", "cache"]


def test_without_the_variable_only_system_and_cache_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMPANION_DATA")
    assert [kind for kind, _ in sources.places("toy")] == ["system", "cache"]


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", "/home/reader")
    assert sources.cache_directory("toy") == Path("/home/reader/.cache/companion/toy")


@each_way_to_break
def test_a_broken_file_is_reported_and_the_next_place_used(
    tmp_path: Path, spoil: Callable[[bytes], bytes], says: str
) -> None:
    bad = put(directory(tmp_path, "own"), images=spoil(CONTENT["images"]))
    good = put(directory(tmp_path, "system"))
    located = sources.locate("toy")
    assert located.place == good
    assert len(located.problems) == 1
    assert f"{bad / 'images.gz'}: " in located.problems[0]
    assert says in located.problems[0]
    with pytest.warns(UserWarning, match="passed over: .*images.gz"):
        assert sources.read_or_fetch("toy") == CONTENT


def test_an_intact_plain_file_beside_a_broken_gzip_is_used(tmp_path: Path) -> None:
    where = put(directory(tmp_path, "own"), packed=False)
    (where / "images.gz").write_bytes(b"\x1f\x8b rubbish")
    located = sources.locate("toy")
    assert located.files["images"] == where / "images"
    assert len(located.problems) == 1


def test_an_incomplete_directory_is_named(tmp_path: Path) -> None:
    where = put(directory(tmp_path, "own"))
    (where / "labels.gz").unlink()
    with pytest.raises(DataNotFoundError, match=f"{where}: labels is missing"):
        sources.locate("toy")


def test_a_directory_in_the_place_of_a_file_is_a_problem_like_others(tmp_path: Path) -> None:
    where = put(directory(tmp_path, "own"))
    (where / "labels.gz").unlink()
    (where / "labels.gz").mkdir()
    with pytest.raises(DataNotFoundError, match="labels.gz: Is a directory"):
        sources.locate("toy")


@each_way_to_break
def test_nothing_found_ends_in_one_line_that_names_three_ways(
    tmp_path: Path, spoil: Callable[[bytes], bytes], says: str
) -> None:
    put(directory(tmp_path, "system"), images=spoil(CONTENT["images"]))
    with pytest.raises(DataNotFoundError) as caught:
        sources.locate("toy")
    message = str(caught.value)
    assert "\n" not in message
    assert says in message
    for way in ("`apt install toy`", "`companion data fetch toy`", "into $COMPANION_DATA/toy"):
        assert way in message
    assert any(says in problem for problem in caught.value.problems)


def test_status_tells_what_is_here_what_is_not_and_what_is_broken(tmp_path: Path) -> None:
    line = next(line for line in sources.status() if line.dataset.name == "toy")
    assert line.located is None
    assert line.problems == ()
    put(directory(tmp_path, "own"), labels=b"rubbish")
    line = next(line for line in sources.status() if line.dataset.name == "toy")
    assert line.located is None
    assert "wrong size" in line.problems[0]
    put(directory(tmp_path, "cache"))
    line = next(line for line in sources.status() if line.dataset.name == "toy")
    assert line.located.kind == "cache"
    assert "wrong size" in line.problems[0]


@pytest.mark.parametrize("function", [sources.locate, sources.fetch, sources.read_or_fetch])
def test_an_unknown_name_is_refused_with_the_nearest_known(function: Callable) -> None:
    with pytest.raises(ValueError, match="name='fashion_mnist' is not a data set: did you mean"):
        function("fashion_mnist")
    with pytest.raises(ValueError, match="name='xyz' is not a data set: known: fashion-mnist"):
        function("xyz")


def test_the_module_does_not_import_torch() -> None:
    code = "import sys, companion.data.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
