"""How a folder comes into being whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import FileInfo, TensorInfo, tensor_file


def expect_nothing(path: Path) -> None:
    """Check that nothing is at a path yet, not even a link to nowhere.

    Args:
        path: where something is to be written.

    Raises:
        DatasetError: if something is there.
    """
    if os.path.lexists(path):
        raise DatasetError(
            f"expected a path where nothing is yet, found {path}; "
            "datasets are never overwritten: choose another path or remove this one"
        )


class AtomicFolder:
    """A folder that is filled under a hidden name beside its own, and renamed when whole.

    Args:
        path: the folder's name at the end; nothing may be there.

    Raises:
        DatasetError: if something is at ``path``, or the folder cannot be made.

    Example:
        >>> import tempfile
        >>> folder = AtomicFolder(Path(tempfile.mkdtemp()) / "new")
        >>> _ = folder.write("note.txt", b"whole")
        >>> folder.path.exists()
        False
        >>> folder.commit()
        >>> (folder.path / "note.txt").read_bytes()
        b'whole'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        expect_nothing(self.path)
        self._parents = [folder for folder in self.path.parents if not folder.exists()]
        name = f".{self.path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
        self.folder = self.path.parent / name
        with self.disk_errors():
            self.folder.mkdir(parents=True)

    def write(self, name: str, content: bytes) -> FileInfo:
        """Write a whole file.

        Args:
            name: its path in the folder.
            content: what it holds.
        """
        with self.disk_errors(), (self.folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return FileInfo(len(content), hashlib.sha256(content).hexdigest())

    def commit(self) -> None:
        """Give the folder its name.

        Raises:
            DatasetError: if something has appeared at ``path`` meanwhile.
        """
        with self.disk_errors():
            for folder, _, _ in os.walk(self.folder):
                _sync_folder(Path(folder))
            # rename() replaces an empty folder and nothing else: look once more to spare that too.
            expect_nothing(self.path)
            try:
                self.folder.rename(self.path)
            except OSError:
                expect_nothing(self.path)
                raise
        self._parents = []
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove everything, and the parent folders made for it; nothing once committed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self._parents:
            with suppress(OSError):
                folder.rmdir()

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Turn what the disk refuses into a DatasetError."""
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"cannot write {self.path}: {error.strerror or error}; "
                "choose a folder with room that can be written; nothing is left of this one"
            ) from error


class TensorFile:
    """One growing ``.memmap`` file and the checksum of what went in.

    Args:
        path: the file.
        dtype: of the values.
        shape: of one row.
    """

    def __init__(self, path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.dtype, self.shape = dtype, shape
        self._file: BinaryIO = path.open("wb")
        self._sha256 = hashlib.sha256()

    def append(self, values: torch.Tensor) -> None:
        """Append rows.

        Args:
            values: ``[t, *shape]`` on the CPU.
        """
        raw = values.contiguous().flatten().view(torch.uint8).numpy().data
        self._file.write(raw)
        self._sha256.update(raw)

    def finish(self, name: str, length: int) -> TensorInfo:
        """Put the file on the disk and describe it.

        Args:
            name: the tensor's name.
            length: number of rows.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        dtype = str(self.dtype).removeprefix("torch.")
        shape = (length, *self.shape)
        return TensorInfo(size, self._sha256.hexdigest(), tensor_file(name), dtype, shape)

    def abandon(self) -> None:
        """Close the file as it is."""
        with suppress(OSError):
            self._file.close()


def _sync_folder(path: Path) -> None:
    # Not every file system can sync a folder; the files themselves are synced.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
