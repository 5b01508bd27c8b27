"""Reading files of arrays; what cannot be read is told by what it is: a web page, a single array, MATLAB's v7.3."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from lpgpu.data.errors import DataError

DAMAGES = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)

_BEGINNINGS = {
    b"\x93NUMPY": "a single array of NumPy (.npy)",
    b"PK\x03\x04": "a zip archive, such as .npz",
    b"\x1f\x8b": "packed by gzip",
    b"\x89HDF": "an HDF5 file",
    b"MATLAB 7.3": "a MATLAB file saved as v7.3, which is HDF5",
    b"MATLAB 5.0": "a MATLAB file",
    b"version https://git-lfs": "a pointer of Git LFS, without the file itself",
    b"<": "a web page or XML",
    b"\x80": "a pickle of Python",
}


def kind_of(path: Path) -> str:
    """What a file is by its first bytes, in a few words; "" where they tell nothing."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return ""
    if not head:
        return "an empty file"
    return next((kind for beginning, kind in _BEGINNINGS.items() if head.lstrip().startswith(beginning)), "")


def unreadable(path: Path, error: object, expected: str) -> DataError:
    """The error for a file that is not what was expected, or damaged, with what it is."""
    kind = kind_of(path)
    what = f"it looks like {kind}, " if kind else ""
    return DataError(
        f"{path} is damaged, or not what its name says ({error}): {what}expected {expected}; fetch it again"
    )


def read_npz(path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """The arrays `names` of an archive of NumPy. Raises `DataError` where it is none, lacks one, or is damaged."""
    expected = f"an archive of NumPy (.npz) with {', '.join(names)}"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise TypeError("it is one array, not an archive")
            missing = [name for name in names if name not in arrays]
            if missing:
                raise DataError(f"{path} has no array {', '.join(missing)}; expected {', '.join(names)}")
            return tuple(arrays[name] for name in names)
    except DataError:
        raise
    except (TypeError, AttributeError, KeyError, *DAMAGES) as error:
        raise unreadable(path, error, expected) from error


def read_npy(path: Path) -> np.ndarray:
    """The array in a file of NumPy. Raises `DataError` where it is none, or damaged."""
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise TypeError("it is an archive, not one array")
        return array
    except (TypeError, *DAMAGES) as error:
        raise unreadable(path, error, "an array of NumPy (.npy)") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or else in Latin-1."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_mat(path: Path, key: str) -> np.ndarray:
    """The numbers of one variable of a MATLAB file, dense. Raises `DataError` where that is not what it holds."""
    from scipy.io import loadmat  # came with scikit-learn; half a second to import: only who asks pays
    from scipy.sparse import issparse

    try:
        variables = loadmat(path)
    except NotImplementedError as error:
        raise DataError(
            f"{path} was saved by MATLAB as v7.3, which cannot be read here; save it again with save(…, '-v7')"
        ) from error
    except (*DAMAGES, TypeError, IndexError) as error:
        raise unreadable(path, error, "a MATLAB file as published") from error
    except Exception as error:
        if type(error).__name__ != "MatReadError":  # scipy does not show its class
            raise
        raise unreadable(path, error, "a MATLAB file as published") from error
    if key not in variables:
        there = ", ".join(name for name in variables if not name.startswith("__")) or "nothing"
        raise DataError(f"{path} has no array {key}; expected the file as published, but it holds {there}")
    values = variables[key].toarray() if issparse(variables[key]) else variables[key]
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise DataError(f"{path} has no numbers in {key}, but {getattr(values, 'dtype', type(values))}")
    return values
