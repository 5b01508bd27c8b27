"""Fetching a file over the network: with a time limit, and whole or not at all."""

import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

TIMEOUT = 30.0  # seconds without an answer


def cache_folder() -> Path:
    """Where fetched files are kept: `$XDG_CACHE_HOME/lpgpu`, or `~/.cache/lpgpu`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lpgpu"


def fetch(address: str, path: Path) -> None:
    """Download `address` to `path`, whose folder is made; an interruption at any moment leaves no part of a file there.

    Raises OSError (urllib's errors are some) when there is no network, no such address, or no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file, urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            shutil.copyfileobj(answer, file)
            expected = answer.headers.get("Content-Length")
            if expected is not None and file.tell() != int(expected):
                raise OSError(f"the connection ended after {file.tell()} of {expected} bytes")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
