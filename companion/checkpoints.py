"""Checkpoints that are whole or not there, and that hold tensors and plain data only."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import XLACheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map_only

LAST = "last.ckpt"


class AtomicCheckpointIO(XLACheckpointIO):
    """Write under a temporary name, then rename; read with ``weights_only=True``.

    A process that is killed while writing leaves the checkpoint of before. Tensors are moved to
    the CPU first, so any machine can read the file. It is an ``XLACheckpointIO`` because
    Lightning's XLA strategies accept nothing else; every other strategy accepts it too.
    """

    def __init__(self) -> None:
        # The parent's only act is to insist on torch_xla, which nothing here needs.
        pass

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to the file `path`, making its directory."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(checkpoint, path, path.with_name(f".{path.name}.partial"))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint; Lightning's other wishes (such as ``weights_only``) are ignored.

        Raises:
            ValueError: as :func:`load`.
        """
        return load(path)


def save(checkpoint: dict[str, Any], path: Path, temporary: Path) -> None:
    """Write `checkpoint`, its tensors on the CPU, to the file `temporary`, then rename that."""
    try:
        with open(temporary, "wb") as stream:
            torch.save(tree_map_only(Tensor, lambda t: t.detach().cpu(), checkpoint), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def load(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint file without running any code that it may hold.

    Args:
        path: of the file.
        mmap: leave the tensors on disk until they are used.

    Raises:
        ValueError: the file is damaged, or holds more than tensors and plain data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"checkpoint {str(path)!r} cannot be read: {reason}") from error


def find(resume_from: str | Path) -> Path:
    """Return the checkpoint file that `resume_from`, a file or its directory, means.

    Raises:
        ValueError: there is none.
    """
    path = Path(resume_from)
    if path.is_dir():
        path = path / LAST
    if not path.is_file():
        raise ValueError(f"resume_from={str(resume_from)!r}: there is no checkpoint {path}")
    return path


def prepare(checkpoint_dir: str | Path) -> Path:
    """Make the directory `checkpoint_dir` and return it.

    Raises:
        ValueError: no file can be written there.
    """
    path = Path(checkpoint_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        reason = f"no file can be written there ({error.strerror})"
        raise ValueError(f"checkpoint_dir={str(checkpoint_dir)!r}: {reason}") from error
    return path
