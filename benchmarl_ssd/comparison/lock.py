"""Which process runs a cell: one at a time, and none that is gone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# The system gives a lock up when its process ends, however it ends; that is how a stale one is
# told. Some clusters' file systems lock for one machine only: there, a process on another machine
# counts as running while it keeps touching its note.
_TOUCH_SECONDS = 30.0
_GONE_SECONDS = 300.0


class CellLock:
    """The right to write in a cell's folder, held until released or until the process ends.

    Both files lie beside the folder: ``.<name>.lock``, and ``.<name>.running.json``, which says
    who holds it.

    Args:
        folder: the cell's folder, which need not exist.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "seed-0"
        >>> mine, yours = CellLock(folder), CellLock(folder)
        >>> mine.acquire(), yours.acquire()
        (True, False)
        >>> mine.release(); yours.acquire()
        True
        >>> yours.release()
    """

    def __init__(self, folder: Path) -> None:
        self._note = folder.with_name(f".{folder.name}.running.json")
        self._path = folder.with_name(f".{folder.name}.lock")
        self._lock = FileLock(self._path, thread_local=False)
        self._released = threading.Event()

    @property
    def owner(self) -> str:
        """Who says to run the cell, in words; a process that ended by force still says so."""
        note = self._read()
        return f"process {note['pid']} on {note['host']}" if note else "another process"

    @property
    def abandoned(self) -> bool:
        """Whether a note is left; without a holder, its process ended by force."""
        return self._note.exists()

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take the cell.

        Args:
            timeout: seconds to wait if another process has it.

        Returns:
            Whether this process has it now.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=timeout)
        except Timeout:
            return False
        if self._runs_elsewhere():
            self._lock.release()
            return False
        self._released = threading.Event()
        note = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        self._note.write_text(json.dumps(note), encoding="utf-8")
        threading.Thread(target=self._keep_touching, args=(self._released,), daemon=True).start()
        return True

    def release(self) -> None:
        """Give the cell up."""
        self._released.set()
        self._note.unlink(missing_ok=True)
        self._lock.release()

    def is_free(self) -> bool:
        """Tell whether no process runs the cell; where none ever did, nothing is written."""
        if not self._path.exists():
            return True
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            return not self._runs_elsewhere()
        finally:
            self._lock.release()

    def _runs_elsewhere(self) -> bool:
        note = self._read()
        if note is None or note["host"] == socket.gethostname():
            return False
        self._path.touch()  # by the clock of the file system, which both machines see
        with contextlib.suppress(FileNotFoundError):
            age = self._path.stat().st_mtime - self._note.stat().st_mtime
            return age < _GONE_SECONDS
        return False

    def _read(self) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if isinstance(note, dict) and {"pid", "host"} <= note.keys():
                return note
        return None

    def _keep_touching(self, released: threading.Event) -> None:
        while not released.wait(_TOUCH_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._note)
