"""Fetching a file over the network: with a time limit, and whole or not at all."""

import hashlib
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from lpgpu.data.errors import DataError

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


def fetch_checked(address: str, path: Path, md5: str) -> None:
    """Download `address` to `path` unless it is there, and see that it has the published checksum.

    Raises `DataError`, with the cure, when it cannot be fetched, or is not what its owner published; a fetched file
    with a wrong checksum is not kept.
    """
    if not path.is_file():
        try:
            fetch(address, path)
        except OSError as error:
            raise DataError(
                f"{address} could not be downloaded to {path} ({error}); fetch it where there is a network, put it "
                f"there, or anywhere and name its folder with --data-dir"
            ) from error
        if (came := _md5(path)) != md5:
            path.unlink()
            raise DataError(f"{address} has the MD5 sum {came}; expected {md5}: it is not what its owner published")
    elif (came := _md5(path)) != md5:
        raise DataError(f"{path} is damaged: its MD5 sum is {came}, expected {md5}; delete it to have it fetched again")


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
