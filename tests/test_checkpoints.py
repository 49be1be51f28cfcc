"""Checkpoints: whole or not there, and no code in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from companion import checkpoints
from companion.checkpoints import AtomicCheckpointIO


def write(path: Path, value: float) -> None:
    AtomicCheckpointIO().save_checkpoint({"weight": torch.full((1000,), value)}, path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run" / "last.ckpt"
    nested = {"a": [torch.arange(3.0), {"b": (1, 2.5, "x", None, True)}]}
    AtomicCheckpointIO().save_checkpoint(nested, path)
    loaded = AtomicCheckpointIO().load_checkpoint(path, map_location="ignored", weights_only=False)
    assert torch.equal(loaded["a"][0], torch.arange(3.0))
    assert loaded["a"][1] == nested["a"][1]
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_a_failure_while_writing_leaves_the_file_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    write(path, 1.0)
    real = torch.save

    def fill_the_disk(checkpoint: Any, stream: Any) -> None:
        real(checkpoint, stream)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write(path, 2.0)
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert checkpoints.load(path)["weight"][0] == 1.0


def test_the_name_is_given_only_to_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    real, sizes = os.replace, []

    def replace(source: Path, target: Path) -> None:
        sizes.append((Path(target).exists(), checkpoints.load(source)["weight"].shape))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write(path, 1.0)
    assert sizes == [(False, (1000,))]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.partial").write_bytes(b"half a checkpoint")
    write(tmp_path / "last.ckpt", 3.0)
    assert os.listdir(tmp_path) == ["last.ckpt"]


class Exploit:
    """Pickles to a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"weight": Exploit(trace)}, tmp_path / "evil.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Exploit(trace), protocol=2))
    for name in ("evil.ckpt", "pickle.ckpt"):
        with pytest.raises(ValueError, match=f"{name}' cannot be read: ") as caught:
            AtomicCheckpointIO().load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, keep: int, mmap: bool) -> None:
    path = tmp_path / "last.ckpt"
    write(path, 1.0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"checkpoint '.*last.ckpt' cannot be read: ") as caught:
        checkpoints.load(path, mmap=mmap)
    assert "\n" not in str(caught.value)


def test_a_file_or_its_directory_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write(path, 1.0)
    assert checkpoints.find(path) == checkpoints.find(str(tmp_path)) == path


@pytest.mark.parametrize("name", ["", "nothing", "nothing/last.ckpt"])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"resume_from='.*': there is no checkpoint "):
        checkpoints.find(tmp_path / name)


def test_a_directory_is_made_and_left_empty(tmp_path: Path) -> None:
    path = checkpoints.prepare(str(tmp_path / "a" / "b"))
    assert path.is_dir()
    assert os.listdir(path) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"checkpoint_dir='.*file': no file can be written there"):
        checkpoints.prepare(tmp_path / "file")
